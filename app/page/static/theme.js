// Before the first paint: marks that scripts run, and applies the reader's choice of colours.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const names = ["auto", "light", "dark"];
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden; then the system decides
    }
  };
  const apply = (name) => {
    root.dataset.theme = names.includes(name) ? name : "auto";
  };
  apply(stored());
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return;
    const tell = () => {
      button.title = `Colours: ${root.dataset.theme === "auto" ? "as the system says" : root.dataset.theme}`;
    };
    tell();
    button.addEventListener("click", () => {
      apply(names[(names.indexOf(root.dataset.theme) + 1) % names.length]);
      tell();
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch {
        // the choice then lasts for this page only
      }
    });
  });
})();
