// A page that waits for the bank asks again by itself and loads anew only when there is news: a reader, or a screen
// reader, is not thrown back to the top every few seconds. Without JavaScript a <noscript> refresh does it plainly.

const secondsOf = (page) => Number(page.querySelector("[data-refresh-seconds]")?.dataset.refreshSeconds);

function lookLater(seconds) {
  setTimeout(look, seconds * 1000);
}

async function look() {
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const seconds = secondsOf(page);
    if (seconds) lookLater(seconds);
    else if (answer.ok) location.reload();
    else lookLater(30);
  } catch {
    lookLater(30); // no connection just now
  }
}

if (secondsOf(document)) lookLater(secondsOf(document));
