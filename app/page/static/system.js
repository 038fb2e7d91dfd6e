// The system page: fetched again every few seconds.
import { refresh } from "./core.js";

setInterval(() => {
  if (!document.hidden) refresh(["live"]).catch(() => {}); // the next round asks again
}, 4000);
