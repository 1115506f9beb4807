"use strict";
// Draws the heat map of a sweep, and of one cell at a time: its runs, their training curves, and where they lie on bits
// against FVU. A run has one colour in all of them.
(function (data) {
  const byId = (id) => document.getElementById(id);
  const config = { displaylogo: false, responsive: true };
  const plain = { exponentformat: "none", separatethousands: false };
  const named = Object.fromEntries(data.measures);
  const color = (number) => `hsl(${Math.round((number * 137.508 + 210) % 360)}, 70%, ${number % 2 ? 55 : 38}%)`;
  const rows = Array.from(document.querySelectorAll("tr[data-run]"));
  let selected = null;

  function fill(select, entries) {
    for (const [value, text] of entries) select.add(new Option(text, value));
  }
  const cells = [];
  for (const layer of data.layers) {
    for (const position of data.positions) {
      if (rows.some((row) => isOf(row, { layer, position }))) cells.push({ layer, position });
    }
  }
  fill(byId("measure"), data.measures);
  fill(byId("variant"), data.variants.map((label, number) => [number, label]));
  fill(byId("cell"), cells.map((cell, number) => [number, `layer ${cell.layer}, position ${cell.position}`]));
  byId("variant-label").hidden = data.variants.length < 2;

  function isOf(row, cell) {
    return row.dataset.layer === String(cell.layer) && row.dataset.position === String(cell.position);
  }

  function runsOf(cell) {
    return data.runs.filter((run) => run.layer === cell.layer && run.position === cell.position);
  }

  function label(run) {
    return data.variants.length > 1 ? `${data.variants[run.variant]}, seed ${run.seed}` : `seed ${run.seed}`;
  }

  function drawMap() {
    const measure = byId("measure").value;
    const drawn = data.maps[Number(byId("variant").value)][measure];
    const map = {
      type: "heatmap", z: drawn.z, x: data.positions, y: data.layers.map(String), text: drawn.text,
      texttemplate: "%{text}", zmin: drawn.low, zmax: drawn.high,
      colorscale: measure.includes("fvu") ? "Magma" : "Viridis", reversescale: measure.includes("fvu"),
      colorbar: { ...plain, title: { text: drawn.beyond ? `beyond (▲▼):<br>${drawn.beyond}` : "" } },
      hovertemplate: "layer %{y}, position %{x}: %{text}<extra></extra>",
    };
    const at = [data.positions.indexOf(selected.position), data.layers.indexOf(selected.layer)];
    const frame = { type: "rect", x0: at[0] - 0.5, x1: at[0] + 0.5, y0: at[1] - 0.5, y1: at[1] + 0.5 };
    const layout = {
      title: { text: named[measure] + ", by layer and token position" },
      xaxis: { title: { text: "Token position" }, type: "category" },
      yaxis: { title: { text: "Layer" }, type: "category" },
      shapes: [{ ...frame, line: { color: "#d62728", width: 3 } }],
    };
    return Plotly.react("map", [map], layout, config);
  }

  function drawPlane(runs) {
    const points = (some, name, extra) => ({
      type: "scatter", mode: "markers", name, showlegend: false,
      x: some.map((run) => run.fvu_val), y: some.map((run) => run.entropy_bits),
      error_y: {
        type: "data", symmetric: false, thickness: 1, color: "#888", array: some.map((run) => run.high - run.entropy_bits),
        arrayminus: some.map((run) => run.entropy_bits - run.low),
      },
      text: some.map((run) => `layer ${run.layer}, position ${run.position}, ${label(run)}, run ${run.run}<br>` +
        `FVU ${run.shown.fvu_val}, ${run.shown.entropy_bits} bits`),
      hovertemplate: "%{text}<extra></extra>", ...extra,
    });
    const others = data.runs.filter((run) => !runs.includes(run));
    const traces = [
      points(others, "other cells", { marker: { color: "#c3cad2" }, error_y: { visible: false } }),
      points(runs, "this cell", { marker: { color: runs.map((_, number) => color(number)), size: 9 } }),
    ];
    const layout = {
      title: { text: "Entropy against what it leaves unexplained; grey: the other cells" },
      xaxis: { ...plain, title: { text: "FVU on held-out texts" } },
      yaxis: { ...plain, title: { text: "Entropy / bits" } },
    };
    return Plotly.react("plane", traces, layout, config);
  }

  function drawCurves(runs) {
    const terms = { loss: "Loss", reconstruction: "Reconstruction", entropy: "Entropy of a batch / bits" };
    const shown = Object.keys(terms).filter((name) => runs.some((run) => run.curves[name]));
    const traces = [];
    const room = 22 * Math.ceil(runs.length / (data.variants.length > 1 ? 2 : 8)); // for the legend
    const layout = {
      title: { text: `Training at layer ${selected.layer}, position ${selected.position}` }, showlegend: true,
      grid: { rows: 1, columns: shown.length + 1, pattern: "independent" },
      height: 480 + room, margin: { b: 80 + room },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } },
    };
    const line = (run, number, axis, extra) => traces.push({
      type: "scatter", mode: "lines", xaxis: "x" + axis, yaxis: "y" + axis, name: label(run), legendgroup: run.run,
      showlegend: axis === "", line: { color: color(number) }, marker: { color: color(number) }, ...extra,
    });
    shown.forEach((name, number) => {
      const axis = number ? String(number + 1) : "";
      runs.forEach((run, of) => {
        if (!run.curves[name]) return;
        const hovertemplate = `${label(run)}: %{y:.4~f}<extra></extra>`;
        line(run, of, axis, { x: run.curves.epoch, y: run.curves[name], hovertemplate });
      });
      layout["xaxis" + axis] = { title: { text: "Epoch" } };
      layout["yaxis" + axis] = { ...plain, title: { text: terms[name] }, type: name === "entropy" ? "linear" : "log" };
    });
    const axis = shown.length ? String(shown.length + 1) : "";
    runs.forEach((run, of) => {
      const hovertemplate = `${label(run)}: %{y:.1f} bits of %{x} texts<extra></extra>`;
      line(run, of, axis, { mode: "lines+markers", x: run.subset_n, y: run.subset_bits, hovertemplate });
    });
    layout["xaxis" + axis] = { title: { text: "Texts n" }, type: "log", tickvals: runs.length ? runs[0].subset_n : [] };
    layout["yaxis" + axis] = { ...plain, title: { text: "Entropy over n texts / bits" } };
    return Plotly.react("curves", traces, layout, config);
  }

  function showRows(runs) {
    const all = byId("all-runs").checked;
    for (const row of rows) {
      row.hidden = !all && !isOf(row, selected);
      const number = runs.findIndex((run) => run.run === row.dataset.run);
      row.cells[0].style.borderLeft = number < 0 ? "" : `.5rem solid ${color(number)}`;
    }
  }

  function select(cell) {
    selected = cell;
    byId("cell").value = String(cells.findIndex((one) => one.layer === cell.layer && one.position === cell.position));
    const runs = runsOf(cell);
    showRows(runs);
    return Promise.all([drawMap(), drawCurves(runs), drawPlane(runs)]);
  }

  byId("measure").addEventListener("change", drawMap);
  byId("variant").addEventListener("change", drawMap);
  byId("cell").addEventListener("change", () => select(cells[Number(byId("cell").value)]));
  byId("all-runs").addEventListener("change", () => showRows(runsOf(selected)));
  select(cells.find((cell) => runsOf(cell).length)).then(([map]) => {
    map.on("plotly_click", (event) =>
      select({ layer: Number(event.points[0].y), position: String(event.points[0].x) })
    );
    document.body.dataset.ready = "yes";
  });
})(JSON.parse(document.getElementById("sweep-data").textContent));
