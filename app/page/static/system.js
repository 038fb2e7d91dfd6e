// The system page: fetched again every few seconds; logging out.
import { ask, refresh, toast } from "./core.js";

setInterval(() => {
  if (!document.hidden) refresh(["live"]).catch(() => {}); // the next round asks again
}, 4000);

document.addEventListener("click", async (event) => {
  if (!event.target.closest?.("#logout")) return;
  try {
    await ask("POST", "/logout");
    location.assign("/login");
  } catch (error) {
    toast(error.message, "bad");
  }
});
