// Keys of the calendar: arrows move between lessons, or to other days while none has the focus; t leads to today. The
// page works without it. Filters are sent as they are chosen.
const isTyping = (event) => event.target.closest("input, textarea, select, [contenteditable], dialog, details[open]") !== null;
const lessons = () => [...document.querySelectorAll(".les")].filter((link) => link.offsetParent !== null);
const SIDES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
  if (event.code === "KeyT") { document.querySelector("[data-cal-today]")?.click(); return; }
  const side = SIDES[event.key];
  if (!side) return;
  const from = document.activeElement?.closest(".les");
  if (from) {
    event.preventDefault();
    nearest(from, side)?.focus();
  } else if (side[0]) {
    event.preventDefault();
    document.querySelector(side[0] < 0 ? "[data-cal-prev]" : "[data-cal-next]")?.click();
  } else if (side[1] > 0 && !event.target.closest(".side")) {
    const first = lessons()[0];
    if (first) { event.preventDefault(); first.focus(); }
  }
});

// Of the lessons that lie to that side: what is off the line counts more than what is far along it.
function nearest(from, [x, y]) {
  const here = middle(from);
  let best = null;
  let least = Infinity;
  for (const link of lessons()) {
    if (link === from) continue;
    const there = middle(link);
    const along = x ? (there.x - here.x) * x : (there.y - here.y) * y;
    const off = Math.abs(x ? there.y - here.y : there.x - here.x);
    if (along <= 4) continue;
    const cost = along + 3 * off;
    if (cost < least) { least = cost; best = link; }
  }
  return best;
}

function middle(element) {
  const box = element.getBoundingClientRect();
  return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
}

document.querySelector("[data-cal-filters]")?.addEventListener("change", (event) => {
  if (event.target.matches("select")) event.currentTarget.requestSubmit();
});
