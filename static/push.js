// The button that has this browser shown the company's messages. Where the browser cannot, the page says so.

const button = document.getElementById("push");

if ("serviceWorker" in navigator && "PushManager" in window && Notification.permission !== "denied") {
  show("push");
  button.addEventListener("click", connect);
}

function show(id) {
  for (const one of ["push", "push-none", "push-done", "push-failed"]) {
    document.getElementById(one).hidden = one !== id && !(one === "push" && id === "push-failed");
  }
}

async function connect() {
  button.disabled = true;
  try {
    const registration = await navigator.serviceWorker.register(button.dataset.worker);
    await activated(registration);
    const options = { userVisibleOnly: true, applicationServerKey: bytes(button.dataset.key) };
    const subscription = await registration.pushManager.subscribe(options);
    const answer = await fetch(button.dataset.url, { method: "POST", body: JSON.stringify(subscription) });
    if (!answer.ok) throw new Error(answer.status);
    show("push-done");
  } catch {
    show("push-failed");
  }
  button.disabled = false;
}

function activated(registration) {
  const worker = registration.installing || registration.waiting;
  if (registration.active || !worker) return;
  return new Promise((resolve) => {
    worker.addEventListener("statechange", () => worker.state === "activated" && resolve());
  });
}

function bytes(text) {
  const plain = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  return Uint8Array.from(plain, (char) => char.charCodeAt(0));
}
