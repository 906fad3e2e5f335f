// Small comforts over pages that work without them. Delegated listeners only.
const root = document.documentElement;

document.addEventListener("click", async (event) => {
  const target = event.target;
  const copy = target.closest("[data-copy]");
  if (copy) {
    await copyText(copy.dataset.copy);
    const label = copy.querySelector("span") ?? copy;
    label.dataset.text ??= label.textContent;
    label.textContent = copy.dataset.done;
    setTimeout(() => { label.textContent = label.dataset.text; }, 2000);
  }
  if (target.closest("[data-theme-toggle]")) {
    root.dataset.bsTheme = root.dataset.bsTheme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.bsTheme);
  }
  const toggle = target.closest("[data-toggle-side]");
  if (toggle) {
    const open = document.body.classList.toggle("side-open");
    toggle.setAttribute("aria-expanded", String(open));
  } else if (!target.closest(".side")) {
    document.body.classList.remove("side-open");
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(target)) menu.open = false;
  }
});

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission or no secure origin
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// A form is sent once; the server ignores a repeat as well.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-once]")) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "1";
  form.classList.add("sending");
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) { delete form.dataset.sent; form.classList.remove("sending"); }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
    document.body.classList.remove("side-open");
  }
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.code === "KeyK") { event.preventDefault(); openPalette(); }
  if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" || event.code === "Slash" && !event.shiftKey) {
    const box = document.querySelector("[data-hotkey-grid]") ?? document.querySelector("[data-hotkey]");
    event.preventDefault();
    if (box) { box.focus(); box.select(); } else openPalette();
  }
});

function isTyping(event) {
  return event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]") !== null;
}

// The palette: one box over everything; the server answers with the list, the page with the choice.
const opener = document.querySelector("[data-palette]");
let palette = null;
opener?.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  openPalette();
});

function openPalette() {
  if (!opener || palette?.open) return;
  if (!palette) {
    palette = document.createElement("dialog");
    palette.className = "palette";
    palette.setAttribute("aria-label", opener.dataset.label);
    const box = document.createElement("input");
    Object.assign(box, { type: "search", className: "form-control", autocomplete: "off", placeholder: opener.dataset.hint });
    for (const [name, value] of Object.entries({ role: "combobox", "aria-label": opener.dataset.label, "aria-expanded": "true", "aria-controls": "palette-list", "aria-autocomplete": "list" })) box.setAttribute(name, value);
    const list = document.createElement("div");
    list.id = "palette-list";
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", opener.dataset.label);
    palette.append(box, list);
    document.body.append(palette);
    let timer = 0;
    box.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => ask(box, list), 120); });
    palette.addEventListener("keydown", (event) => choose(event, box, list));
    palette.addEventListener("click", (event) => { if (event.target === palette) palette.close(); });
  }
  const box = palette.querySelector("input");
  box.value = "";
  palette.showModal();
  box.focus();
  ask(box, palette.querySelector("[role=listbox]"));
}

let asked = 0;
async function ask(box, list) {
  const mine = ++asked;
  const answer = await fetch(`${opener.dataset.palette}?q=${encodeURIComponent(box.value)}&next=${encodeURIComponent(location.pathname + location.search)}`);
  if (mine !== asked) return; // somebody has typed on
  if (answer.redirected || !answer.ok) { location.reload(); return; }
  list.innerHTML = await answer.text();
  mark(box, list, 0);
}

function mark(box, list, to) {
  const options = [...list.querySelectorAll("[role=option]")];
  options.forEach((option, at) => option.setAttribute("aria-selected", String(at === to)));
  if (options[to]) { box.setAttribute("aria-activedescendant", options[to].id); options[to].scrollIntoView({ block: "nearest" }); }
  else box.removeAttribute("aria-activedescendant");
}

function choose(event, box, list) {
  const options = [...list.querySelectorAll("[role=option]")];
  const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (options.length) mark(box, list, (at + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length);
  } else if (event.key === "Enter" && !event.isComposing) {
    event.preventDefault();
    options[at]?.click();
  } else if (event.key === "Escape") { // the browser would only empty the box first
    event.preventDefault();
    palette.close();
  }
  event.stopPropagation();
}

// A grid comes back as it was left: the menu leads to the address its person last had there.
const side = document.getElementById("side");
if (side?.dataset.user) {
  const key = (path) => `grid:${side.dataset.user}:${path}`;
  if (document.querySelector("[data-left]")) localStorage.setItem(key(location.pathname), location.search);
  for (const link of side.querySelectorAll("li a:not([aria-current])")) {
    const search = localStorage.getItem(key(link.pathname));
    if (search) link.search = search;
  }
}

// A page that waits for a worker looks again by itself.
const waiting = document.querySelector("[data-refresh]");
if (waiting) setTimeout(() => location.reload(), Number(waiting.dataset.refresh) * 1000);

// The tab one is in stands in sight, however many there are before it.
const tab = document.querySelector(".tabs [aria-current]");
if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 16;
