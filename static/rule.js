// The form of a mailing: what is chosen decides which fields there are. The server knows; it is asked after each choice.
const fields = document.querySelector("[data-refreshed]");
const form = fields?.closest("form");
document.querySelector("[data-without-script]")?.setAttribute("hidden", "");

let asked = 0;
form?.addEventListener("change", async (event) => {
  if (!event.target.closest("[data-decides]")) return;
  const mine = ++asked, body = new FormData(form);
  body.set("step", "refresh");
  const answer = await fetch(location.href, { method: "POST", body }).catch(() => null);
  if (mine !== asked) return; // somebody has chosen on
  if (!answer?.ok || answer.redirected) { document.querySelector("[data-without-script]")?.removeAttribute("hidden"); return; }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (mine !== asked) return;
  for (const place of fields.querySelectorAll("[data-field]")) {
    const told = page.querySelector(`[data-field="${place.dataset.field}"]`);
    if (!told) continue;
    place.hidden = told.hidden;
    if (/^(way|template)/.test(place.dataset.field)) {
      const select = place.querySelector("select"), chosen = told.querySelector("select").value; // moving options chooses others
      const before = [...select.options].map(({ value }) => value), now = [...told.querySelectorAll("option")];
      if (before.join("\n") !== now.map(({ value }) => value).join("\n")) select.replaceChildren(...told.querySelector("select").children);
      select.value = chosen;
    }
  }
  const lacks = page.querySelector("[data-lacks]");
  if (lacks) document.querySelector("[data-lacks]")?.replaceChildren(...lacks.childNodes);
});
