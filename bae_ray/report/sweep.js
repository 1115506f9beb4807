"use strict";
// Draws the heat map of a sweep; a click on a cell shows its training curves, and where it lies on bits against FVU.
(function (data) {
  const byId = (id) => document.getElementById(id);
  const config = { displaylogo: false, responsive: true };
  const named = Object.fromEntries(data.measures);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function fill(select, entries) {
    for (const [value, text] of entries) select.add(new Option(text, value));
  }
  fill(byId("measure"), data.measures);
  fill(byId("variant"), data.variants.map((label, number) => [number, label]));
  byId("variant-label").hidden = data.variants.length < 2;

  function runsOf(layer, position, variant) {
    return data.runs.filter(
      (run) => run.layer === layer && run.position === position && (variant === null || run.variant === variant)
    );
  }

  function drawMap() {
    const measure = byId("measure").value;
    const variant = Number(byId("variant").value);
    const z = data.layers.map((layer) =>
      data.positions.map((position) => {
        const values = runsOf(layer, position, variant).map((run) => run[measure]);
        return values.length ? mean(values) : null;
      })
    );
    const map = {
      type: "heatmap", z, x: data.positions, y: data.layers.map(String), texttemplate: "%{z:.3~g}",
      colorscale: measure.startsWith("fvu") ? "Magma" : "Viridis", reversescale: measure.startsWith("fvu"),
      hovertemplate: "layer %{y}, position %{x}: %{z:.4~g}<extra></extra>",
    };
    const layout = {
      title: { text: named[measure] + ", by layer and token position" },
      xaxis: { title: { text: "Token position" }, type: "category" },
      yaxis: { title: { text: "Layer" }, type: "category" },
    };
    return Plotly.react("map", [map], layout, config);
  }

  function drawPlane(selected) {
    const marked = (run) => selected && run.layer === selected.layer && run.position === selected.position;
    const groups = [
      ["other cells", data.runs.filter((run) => !marked(run)), "#9aa5b1"],
      ["this cell", data.runs.filter(marked), "#d62728"],
    ];
    const traces = groups.filter(([, runs]) => runs.length).map(([name, runs, color]) => ({
      type: "scatter", mode: "markers", name, marker: { color },
      x: runs.map((run) => run.fvu_val), y: runs.map((run) => run.entropy_bits),
      error_y: {
        type: "data", symmetric: false, thickness: 1, array: runs.map((run) => run.high - run.entropy_bits),
        arrayminus: runs.map((run) => run.entropy_bits - run.low),
      },
      text: runs.map((run) => `layer ${run.layer}, position ${run.position}, ${data.variants[run.variant]}, ` +
        `seed ${run.seed}, run ${run.run}`),
      hovertemplate: "%{text}<br>FVU %{x:.3f}, %{y:.1f} bits<extra></extra>",
    }));
    const layout = {
      title: { text: "Entropy against what it leaves unexplained" },
      xaxis: { title: { text: "FVU on held-out texts" } }, yaxis: { title: { text: "Entropy / bits" } },
    };
    return Plotly.react("plane", traces, layout, config);
  }

  function drawCurves(layer, position) {
    const runs = runsOf(layer, position, null);
    const terms = { loss: "Loss", reconstruction: "Reconstruction", entropy: "Entropy of a batch / bits" };
    const shown = Object.keys(terms).filter((name) => runs.some((run) => run.curves[name]));
    const traces = [];
    const layout = {
      title: { text: `Training at layer ${layer}, position ${position}` }, showlegend: false,
      grid: { rows: 1, columns: shown.length + 1, pattern: "independent" },
    };
    shown.forEach((name, number) => {
      const axis = number ? String(number + 1) : "";
      for (const run of runs.filter((one) => one.curves[name])) {
        traces.push({
          type: "scatter", mode: "lines", xaxis: "x" + axis, yaxis: "y" + axis, x: run.curves.epoch, y: run.curves[name],
          hovertemplate: `${data.variants[run.variant]}, seed ${run.seed}: %{y:.4~g}<extra></extra>`,
        });
      }
      layout["xaxis" + axis] = { title: { text: "Epoch" } };
      layout["yaxis" + axis] = { title: { text: terms[name] }, type: name === "entropy" ? "linear" : "log" };
    });
    const axis = String(shown.length + 1);
    for (const run of runs) {
      traces.push({
        type: "scatter", mode: "lines+markers", xaxis: "x" + axis, yaxis: "y" + axis, x: run.subset_n, y: run.subset_bits,
        hovertemplate: `${data.variants[run.variant]}, seed ${run.seed}: %{y:.1f} bits of %{x} texts<extra></extra>`,
      });
    }
    layout["xaxis" + axis] = { title: { text: "Texts n" }, type: "log" };
    layout["yaxis" + axis] = { title: { text: "Entropy over n texts / bits" } };
    byId("curves-hint").hidden = true;
    return Plotly.react("curves", traces, layout, config);
  }

  byId("measure").addEventListener("change", drawMap);
  byId("variant").addEventListener("change", drawMap);
  drawPlane(null);
  drawMap().then((map) => {
    map.on("plotly_click", (event) => {
      const selected = { layer: Number(event.points[0].y), position: String(event.points[0].x) };
      drawCurves(selected.layer, selected.position);
      drawPlane(selected);
    });
    document.body.dataset.ready = "yes";
  });
})(JSON.parse(document.getElementById("sweep-data").textContent));
