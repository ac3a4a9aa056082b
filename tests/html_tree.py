"""Reads a page as a browser would: a tree of elements, with the text that is shown."""

from html.parser import HTMLParser

VOID = {"img", "input", "meta"}


class Element:
    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, attributes, []

    @property
    def text(self):
        """The text of the element and of those inside it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def find(self, tag, class_=""):
        """All elements of this tag and class inside, in the order of the page."""
        found = []
        for child in self.children:
            if not isinstance(child, str):
                classes = child.attributes.get("class", "").split()
                found += [child] if child.tag == tag and (not class_ or class_ in classes) else []
                found += child.find(tag, class_)
        return found


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read_page(text):
    """The elements of a page, all of which must be closed in order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1
    return reader.open[0]
