// The result: finding a class by its name.
import { find, findAll } from "./core.js";

find("#class-filter")?.addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  let num = 0;
  for (const row of findAll("#classes > .class")) {
    row.hidden = !row.dataset.name.toLowerCase().includes(wanted);
    num += row.hidden ? 0 : 1;
  }
  find("#no-class").hidden = num > 0;
});
