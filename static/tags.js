// Tags beside a text become buttons: a click puts one at the cursor of the field written in last. Without a script they
// are read and typed.
const place = document.querySelector("[data-tags]");
const isText = (field) => field.matches("textarea, input[name^=subject]");
let field = place?.querySelector("textarea");

place?.addEventListener("focusin", (event) => { if (isText(event.target)) field = event.target; });

for (const tag of place?.querySelectorAll(".tag") ?? []) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tag-button";
  tag.replaceWith(button);
  button.append(tag);
  button.addEventListener("click", () => {
    field.focus();
    field.setRangeText(tag.textContent, field.selectionStart, field.selectionEnd, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
}
