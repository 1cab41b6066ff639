function draw(box) {
  if ("drawn" in box.dataset) return;
  box.dataset.drawn = "";
  const figure = JSON.parse(document.getElementById(box.dataset.figure).textContent);
  Plotly.newPlot(box, figure.data, figure.layout, {
    responsive: true,
    displaylogo: false,
    // On by default in plotly 7; nothing on this page leaves it.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  });
}
// Inside a closed fold-out a picture has no width yet.
for (const box of document.querySelectorAll(".picture")) {
  if (box.closest("details:not([open])") === null) draw(box);
}
for (const fold of document.querySelectorAll("details")) {
  fold.addEventListener("toggle", () => {
    if (fold.open) fold.querySelectorAll(".picture").forEach(draw);
  });
}
// A closed fold-out prints as nothing, and a picture keeps the width of the screen.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    fold.open = true;
    fold.dataset.closed = "";
  }
  for (const box of document.querySelectorAll(".picture")) {
    draw(box);
    Plotly.Plots.resize(box);
  }
});
addEventListener("afterprint", () => {
  for (const fold of document.querySelectorAll("details[data-closed]")) {
    fold.open = false;
    delete fold.dataset.closed;
  }
});
