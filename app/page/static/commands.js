// The same job as commands to copy, in the order in which the page shows them.

const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);

const python = (value) => {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  return JSON.stringify(value);
};

const leaves = (tree, path = "") => Object.entries(tree).flatMap(([name, value]) => (
  value !== null && typeof value === "object" && !Array.isArray(value)
    ? leaves(value, `${path}${name}.`) : [[path + name, value]]
));

/** The command line knows no uploads and mounted folders by name: there they are paths. */
const localName = (dataset) => (dataset === "digits" || dataset.includes("/") ? dataset : `path/to/${dataset}`);

/** curl, Python and the command line without the service. */
export function commandsOf(body, origin, hasKey) {
  const header = hasKey ? ' \\\n  -H "Authorization: Bearer $DISTILLERY_API_KEY"' : "";
  const words = Object.entries(body).map(([name, value]) => `${name}=${python(value)}`).join(", ");
  const { dataset, ipc, preset, name, metadata, priority, acknowledge_licence: known, ...rest } = body;
  const options = [ipc && `--ipc ${ipc}`, preset && `--preset ${preset}`, known && "--yes"];
  for (const [path, value] of leaves(rest)) options.push(`--set ${quote(`${path}=${typeof value === "string" ? value : JSON.stringify(value)}`)}`);
  return [
    `curl ${origin}/jobs${header} \\\n  --json ${quote(JSON.stringify(body))}`,
    `import distillery\n\nclient = distillery.Client(${python(origin)}${hasKey ? ', api_key="dst_..."' : ""})\njob = client.jobs.create(${words})\njob.wait().download("out")`,
    ["distillery run", quote(localName(dataset)), ...options.filter(Boolean)].join(" "),
  ];
}
