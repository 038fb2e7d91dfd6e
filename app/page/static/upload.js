// An archive becomes a dataset: chosen or dropped, sent with a bar, then offered in the form.
import { find, make, size, toast } from "./core.js";

/** `my photos.tar.gz` becomes `my-photos`. */
const nameOf = (file) => file.name.replace(/\.(zip|tar|tgz|tar\.gz|parquet|safetensors)$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 63) || "dataset";

/** The service goes by the media type; where there is none, by the first bytes. */
const TYPES = [[/\.zip$/i, "application/zip"], [/\.tar$/i, "application/x-tar"], [/\.t?gz$/i, "application/gzip"], [/\.parquet$/i, "application/vnd.apache.parquet"]];
const typeOf = (file) => TYPES.find(([suffix]) => suffix.test(file.name))?.[1] || "application/octet-stream";

function send(file, name, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of what has been sent
    request.open("POST", `/datasets?name=${encodeURIComponent(name)}`);
    request.setRequestHeader("Content-Type", typeOf(file));
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      let content = null;
      try {
        content = JSON.parse(request.responseText);
      } catch {
        content = null; // not ours: the status says enough
      }
      if (request.status < 300) resolve(content);
      else reject(new Error(content?.detail || `the service answered ${request.status}`));
    });
    request.addEventListener("error", () => reject(new Error("the upload was cut off: try again")));
    request.send(file);
  });
}

export function addUpload(onChange) {
  const [box, input, bar, note] = [find("#upload"), find("#archive"), find("#upload-bar"), find("#upload-note")];
  const said = note.textContent;
  const take = async (file) => {
    if (!file) return;
    bar.hidden = false;
    bar.value = 0;
    note.textContent = `sending ${file.name}, ${size(file.size)}`;
    try {
      const dataset = await send(file, nameOf(file), (share) => {
        bar.value = share;
        if (share === 1) note.textContent = "looking at the images";
      });
      offer(dataset);
      note.textContent = said;
      onChange();
      toast(`${dataset.name} can be distilled now`);
    } catch (error) {
      note.textContent = said;
      toast(error.message, "bad");
    } finally {
      bar.hidden = true;
      input.value = "";
    }
  };
  input.addEventListener("change", () => take(input.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    box.addEventListener(kind, (event) => {
      event.preventDefault();
      box.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
}

/** Add a dataset to the choices and choose it. */
function offer(dataset) {
  const { classes, images } = dataset.facts || {};
  const facts = ["uploaded", classes && `${classes} classes`, images && `${images.toLocaleString()} images`].filter(Boolean).join(", ");
  const radio = make("input", { type: "radio", name: "dataset", value: dataset.name });
  const label = make("label", { class: "choice" }, radio, make("span", {}, make("strong", {}, make("bdi", {}, dataset.name)), make("span", { class: "muted small" }, facts)));
  find("#datasets").insertBefore(label, find("#dataset-other").closest("label"));
  radio.checked = true;
}
