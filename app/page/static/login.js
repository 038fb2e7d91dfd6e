// Logging in with an API key, which must never stand in an address; tokens go the form's own way.
import { find } from "./core.js";

find("#login").addEventListener("submit", async (event) => {
  const key = find("#token").value.trim();
  if (!key.startsWith("dst_")) return;
  event.preventDefault();
  const response = await fetch("/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key }),
  }).catch(() => null);
  if (response?.ok) location.assign("/");
  else find("#login-error").textContent = response ? "This key is not valid, or was revoked." : "The service cannot be reached.";
  find("#login-error").hidden = Boolean(response?.ok);
});
