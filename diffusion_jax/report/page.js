"use strict";

// The slider: each run shows its newest grid of that step or before.
const slider = document.querySelector(".slider input");
if (slider) {
  const steps = JSON.parse(slider.dataset.steps);
  slider.addEventListener("input", () => {
    const step = steps[slider.value];
    slider.nextElementSibling.textContent = `step ${step}`;
    for (const figure of document.querySelectorAll("figure.grid")) {
      const images = [...figure.querySelectorAll("img")];
      const shown = images.filter((image) => Number(image.dataset.step) <= step).pop();
      for (const image of images) image.hidden = image !== shown;
      figure.querySelector(".step").textContent = shown ? `step ${shown.dataset.step}` : "none yet";
    }
  });
  slider.value = steps.length - 1; // a reloaded page keeps the value, but not the images
}

// The values under the pointer. A point is [step, place in the drawing, text].
function nearest(points, place) {
  return points.reduce((a, b) => (Math.abs(b[1] - place) < Math.abs(a[1] - place) ? b : a));
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

for (const plot of document.querySelectorAll(".plot")) {
  const [svg, ruler, tip] = ["svg", ".ruler", ".tip"].map((name) => plot.querySelector(name));
  const labels = svg.dataset.labels && JSON.parse(svg.dataset.labels);
  const lines = [...plot.querySelectorAll("svg > .line")].map((line) => ({
    name: line.dataset.name,
    color: [...line.classList].find((name) => name !== "line" && name !== "dashed"),
    points: JSON.parse(line.dataset.points),
  }));
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const found = nearest(lines.flatMap((line) => line.points), place);
    const rows = lines.map((line) => {
      const point = nearest(line.points, place);
      const row = make("div", "", "");
      const where = point[0] === found[0] || labels ? "" : ` at step ${point[0]}`;
      row.append(make("span", `dot ${line.color}`, ""), make("b", "", point[2]), ` ${line.name}${where}`);
      return row;
    });
    tip.replaceChildren(make("div", "", labels ? labels[found[0]] : `step ${found[0]}`), ...rows);
    ruler.setAttribute("x1", found[1]);
    ruler.setAttribute("x2", found[1]);
    const right = (found[1] / svg.viewBox.baseVal.width) * box.width;
    tip.style.left = `${right > box.width / 2 ? Math.max(0, right - tip.offsetWidth - 12) : right + 12}px`;
    tip.style.visibility = ruler.style.visibility = "visible";
  });
  plot.addEventListener("pointerleave", () => {
    tip.style.visibility = ruler.style.visibility = "hidden";
  });
}
