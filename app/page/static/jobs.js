// The list of jobs: fetched again while something moves, and the demo button.
import { ask, find, newKey, refresh, toast } from "./core.js";

const FAST_MS = 1500;
const SLOW_MS = 15000;

async function watch() {
  const isActive = Number(find("#live").dataset.active) > 0;
  await new Promise((resume) => setTimeout(resume, isActive ? FAST_MS : SLOW_MS));
  if (!document.hidden) {
    try {
      await refresh(["live"]);
    } catch {
      // the service is away for a moment; the next round asks again
    }
  }
  watch();
}

const demoKey = newKey();
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-demo]");
  if (!button) return;
  button.disabled = true;
  try {
    const job = await ask("POST", "/jobs", { body: { dataset: "digits", ipc: 10 }, key: demoKey });
    location.assign(job.urls?.page || `/ui/jobs/${job.id}`);
  } catch (error) {
    button.disabled = false;
    toast(error.message, "bad");
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh(["live"]).catch(() => {});
});
watch();
