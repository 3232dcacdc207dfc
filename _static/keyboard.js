// Whatever scrolls sideways can be reached with the Tab key, and then moved with the arrow keys.
const SCROLLERS =
  ".bd-article :is(pre, p, dt, div.math, mjx-container, .cell_output, .claims-scroller, " +
  ".pst-scrollable-table-container)";

function reachable() {
  for (const box of document.querySelectorAll(SCROLLERS)) {
    const scrolls =
      box.scrollWidth > box.clientWidth && /auto|scroll/.test(getComputedStyle(box).overflowX);
    if (scrolls) {
      if (box.tabIndex !== 0) box.tabIndex = 0;
      box.dataset.scrolls = "";
    } else if ("scrolls" in box.dataset) {
      box.removeAttribute("tabindex");
      delete box.dataset.scrolls;
    }
  }
}

// Formulas are drawn, boxes unfolded and windows turned after the page has come: each resizes it.
document.addEventListener("DOMContentLoaded", () =>
  new ResizeObserver(reachable).observe(document.body),
);
