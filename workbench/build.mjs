// Bundles the page into the Python package: one script, one style sheet, and the licences of what is in them.
import { build } from "esbuild";
import { copyFile, readFile, writeFile } from "node:fs/promises";

const out = "../bae_ray/serving/workbench";
const bundled = await build({
  entryPoints: { workbench: "src/main.tsx" },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "ascii",
  metafile: true,
  outdir: out,
});
await copyFile("src/index.html", `${out}/index.html`);

const packages = new Set();
for (const file of Object.keys(bundled.metafile.inputs)) {
  const name = file.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1];
  if (name) packages.add(name);
}
const notices = ["The page of the workbench holds these packages, unchanged but for bundling."];
for (const name of [...packages].sort()) {
  const { version, license } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  const text = await readFile(`node_modules/${name}/LICENSE`, "utf8");
  notices.push(`${"-".repeat(80)}\n${name} ${version} (${license})\n\n${text.trim()}`);
}
await writeFile(`${out}/NOTICES.txt`, notices.join("\n\n") + "\n");
