// A job's page while it runs: the bar moves by itself; when the job is over the page is loaded anew.
const panel = document.querySelector("[data-job]");
const bar = panel.querySelector("[data-job-bar]");
const text = panel.querySelector("[data-job-text]");

async function look() {
  try {
    const answer = await fetch(panel.dataset.job, { headers: { Accept: "application/json" } });
    if (!answer.ok) { location.reload(); return; }
    const job = await answer.json();
    if (job.is_over) { location.reload(); return; }
    text.textContent = job.text;
    if (job.total !== null) {
      bar.max = Math.max(job.total, 1);
      bar.value = job.done;
    }
  } catch { /* the network is away for a moment */ }
  setTimeout(look, 1000);
}

panel.querySelector("[data-job-refresh]").hidden = true;
setTimeout(look, 500);
