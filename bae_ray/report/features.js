"use strict";
// The feature browser: search, order, cards that open. All text goes in as text, never as HTML.
(function (data) {
  const PAGE = 100;
  const BINS = 20;
  const byId = (id) => document.getElementById(id);
  const number = (value, digits = 3) => (value === null ? "-" : value.toPrecision(digits));
  let shown = PAGE;
  let open = null;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  for (const feature of data.features) {
    const pieces = feature.tokens.flatMap((one) => [one.pieces[one.at]]);
    feature.searched = [feature.index, feature.explanation, ...pieces].join("\n").toLowerCase();
  }

  const scores = data.features.map((feature) => feature.score).filter((score) => score !== null);
  const bin = (score) => Math.min(BINS - 1, Math.floor(score * BINS));
  function drawHistogram() {
    const counts = new Array(BINS).fill(0);
    scores.forEach((score) => (counts[bin(score)] += 1));
    const most = Math.max(1, ...counts);
    byId("histogram").replaceChildren(...counts.map((count, i) => {
      const bar = element("div", open && open.score !== null && bin(open.score) === i ? "here" : "");
      bar.style.height = `${(100 * count) / most}%`;
      bar.title = `${i / BINS} to ${(i + 1) / BINS}: ${count} features`;
      bar.dataset.count = count;
      return bar;
    }));
    byId("histogram-text").textContent = open && open.score !== null
      ? `feature ${open.index} scores ${number(open.score)}, as much as or more than ` +
        `${Math.round((100 * scores.filter((score) => score <= open.score).length) / scores.length)} % of the features`
      : `scores of ${scores.length} features`;
  }

  function exampleOf(one) {
    const line = element("div", "example");
    const known = one.values.filter((value) => value !== null);
    const low = Math.min(...known);
    const range = Math.max(...known) - low;
    one.pieces.forEach((piece, i) => {
      const value = one.values[i];
      const mark = element("mark", i === one.at ? "strongest" : "", piece);
      mark.style.setProperty("--strength", value === null || range === 0 ? 0 : ((value - low) / range).toFixed(3));
      mark.title = value === null ? "not looked at" : `magnitude ${number(value, 4)}`;
      line.append(mark);
    });
    return line;
  }

  function bodyOf(feature) {
    const body = element("div", "body");
    const level = feature.chance === null ? "" : `, chance level ${number(feature.chance)} (on another feature's tokens)`;
    body.append(element("div", "score", `score ${number(feature.score)} of ${feature.n} held-out examples${level}`));
    if (feature.p_yes !== null) body.append(element("div", "", `mean P(Yes) ${number(feature.p_yes)}`));
    body.append(element("div", "rate", `fires on ${number(100 * feature.rate)} % of the tokens` +
      `, entropy ${number(feature.entropy)} bits, among the strongest of ${feature.count} tokens`));
    if (feature.status !== "scored") body.append(element("div", "warning", `${feature.status} ${feature.error}`));
    if (feature.problems) body.append(element("div", "warning", `${feature.problems} judgements could not be read`));
    feature.tokens.forEach((one) => body.append(exampleOf(one)));
    return body;
  }

  function cardOf(feature) {
    const card = element("div", "card");
    card.id = `feature-${feature.index}`;
    const head = element("button");
    head.setAttribute("aria-expanded", String(open === feature));
    head.append(
      element("span", "number", `#${feature.index}`),
      element("span", feature.explanation ? "name" : "name quiet", feature.explanation || feature.status),
      element("span", "number", `score ${number(feature.score)}`),
    );
    head.addEventListener("click", () => {
      open = open === feature ? null : feature;
      draw();
    });
    card.append(head);
    if (open === feature) card.append(bodyOf(feature));
    return card;
  }

  function draw() {
    const wanted = byId("search").value.trim().toLowerCase();
    const key = byId("sort").value;
    const sign = byId("ascending").checked ? 1 : -1;
    const found = data.features.filter((feature) => feature.searched.includes(wanted));
    found.sort((a, b) => {
      if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
      return sign * (a[key] - b[key]) || a.index - b.index;
    });
    byId("count").textContent = `${found.length} of ${data.features.length} features`;
    byId("cards").replaceChildren(...found.slice(0, shown).map(cardOf));
    byId("more").hidden = found.length <= shown;
    drawHistogram();
  }

  byId("search").addEventListener("input", () => { shown = PAGE; draw(); });
  byId("sort").addEventListener("change", draw);
  byId("ascending").addEventListener("change", draw);
  byId("more").addEventListener("click", () => { shown += PAGE; draw(); });
  draw();
  document.body.dataset.ready = "yes";
})(JSON.parse(document.getElementById("features-data").textContent));
