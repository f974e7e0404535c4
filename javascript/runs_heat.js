// The heat map of a run: blocks by steps, on a canvas, in the colours of the tokens --blocktrain-heat-0 to -8. Blocks
// that are not trained are folded to a thin line. Shown are the norm of the change (the delta weights), that of the
// gradient, or the share of the change: its square over the sum of all blocks' squares.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const LEVELS = 9;
    const KINDS = { norms: "Change", gradients: "Gradient", shares: "Share" };
    const ABOUT = {
        norms: "The norm of each block's delta weights",
        gradients: "The norm of each block's gradient, on a logarithmic scale",
        shares: "Each block's share of the whole change",
    };
    let runs; // blocktrain.runs
    let parts;
    let chosen = null; // a block
    let hovered = null; // {block, step}

    // Neighbouring blocks that are not trained, as one row.
    function rowsOf({ order, norms }) {
        const rows = [];
        for (const block of order) {
            const trained = block in norms;
            const before = rows[rows.length - 1];
            if (!trained && before?.frozen) {
                before.last = block;
            } else {
                rows.push(trained ? { block } : { frozen: true, first: block, last: block });
            }
        }
        return rows;
    }

    // The shares of all blocks, from their norms at the same steps.
    function shares(norms) {
        const sums = new Map();
        for (const [steps, values] of Object.values(norms)) {
            steps.forEach((step, index) => sums.set(step, (sums.get(step) || 0) + values[index] ** 2));
        }
        return Object.fromEntries(Object.entries(norms).map(([block, [steps, values]]) => [
            block,
            [steps, values.map((value, index) => (sums.get(steps[index]) ? value ** 2 / sums.get(steps[index]) : 0))],
        ]));
    }

    let prepared = null; // for the data that was sent last

    function prepare() {
        const blocks = runs.data.blocks;
        if (!blocks || prepared?.blocks === blocks) {
            return blocks ? prepared : null;
        }
        prepared = {
            blocks,
            rows: rowsOf(blocks),
            norms: blocks.norms,
            gradients: blocks.gradients,
            shares: shares(blocks.norms),
            frozen: blocks.frozen || {},
        };
        return prepared;
    }

    // From which value on a cell has the lightest level, and from which the last: [low, high, value -> 0 to 1].
    function scaleOf(kind, map) {
        const values = Object.values(map[kind]).flatMap(([, numbers]) => numbers);
        const high = Math.max(...values, 0) || 1;
        if (kind !== "gradients") {
            return [0, high, (value) => value / high];
        }
        const positive = values.filter((value) => value > 0).sort((a, b) => a - b);
        const low = Math.min(positive[Math.floor(positive.length * 0.02)] || high / 10, high / 2);
        const width = Math.log(high / low);
        return [low, high, (value) => (value > low ? Math.log(value / low) / width : 0)];
    }

    const colours = () => {
        const style = getComputedStyle(parts.canvas);
        return Array.from({ length: LEVELS }, (_, level) => style.getPropertyValue(`--blocktrain-heat-${level}`).trim() || "#888");
    };
    const shown = (kind, value) => (value === null ? "–" : kind === "shares" ? `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %` : value.toPrecision(2));

    // --- drawing ----------------------------------------------------------------------------------------------------

    let drawnRows = null;
    let drawnCells = "";

    function draw() {
        const map = prepare();
        const some = map !== null && Object.keys(map.norms).length > 0;
        parts.none.hidden = some;
        parts.heat.hidden = !some;
        parts.kinds.hidden = !some;
        parts.key.hidden = !some;
        if (!some) {
            parts.none.textContent = runs.data.curves ? "How much each block has changed is shown from the first step on." : "";
            return;
        }
        const key = JSON.stringify(map.rows);
        if (drawnRows !== key) {
            drawnRows = key;
            drawRows(map);
        }
        drawCells(map);
        drawValues(map);
    }

    function drawRows(map) {
        const { made } = runs;
        parts.rows.replaceChildren(...map.rows.map((row) => {
            if (row.frozen) {
                const name = row.first === row.last ? row.first : `${row.first}–${row.last}`;
                const line = made("div", { className: "blocktrain-hr blocktrain-is-frozen" }, made("b", { textContent: name }), made("span"), made("em", { textContent: "frozen" }));
                line.title = `${name}: not trained`;
                return line;
            }
            const name = made("button", { type: "button", textContent: row.block });
            name.addEventListener("click", () => choose(chosen === row.block ? null : row.block));
            const line = made("div", { className: "blocktrain-hr" }, made("b", {}, name), made("span"), made("em"));
            line.dataset.block = row.block;
            return line;
        }));
        drawnCells = "";
    }

    function choose(block) {
        chosen = block;
        draw();
    }

    // Where the row of each block is on the canvas.
    function places() {
        const top = parts.rows.getBoundingClientRect().top;
        return new Map([...parts.rows.querySelectorAll("[data-block]")].map((line) => {
            const box = line.getBoundingClientRect();
            return [line.dataset.block, { top: box.top - top, height: box.height }];
        }));
    }

    function drawCells(map) {
        const { canvas } = parts;
        const kind = runs.state.heat in KINDS ? runs.state.heat : "norms";
        const [width, height] = [canvas.clientWidth, parts.rows.clientHeight];
        if (!width || !height) {
            return;
        }
        const palette = colours();
        const ratio = window.devicePixelRatio || 1;
        const key = JSON.stringify([kind, width, height, palette, ratio, runs.last()]);
        const [low, high, share] = scaleOf(kind, map);
        const digits = kind === "shares" ? [low, high].map((value) => `${Math.round(100 * value)} %`) : [low, high].map((value) => (value ? value.toPrecision(2) : "0"));
        parts.low.textContent = digits[0];
        parts.high.textContent = digits[1];
        parts.key.title = ABOUT[kind];
        if (drawnCells === key && canvas.drawnFrom === map) {
            return;
        }
        drawnCells = key;
        canvas.drawnFrom = map;
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        const context = canvas.getContext("2d");
        const most = runs.last();
        const own = Math.max(runs.data.curves?.last || 0, 1); // a value holds until the next one
        for (const [block, { top, height: tall }] of places()) {
            const [steps, values] = map[kind][block] || [[], []];
            steps.forEach((step, index) => {
                const from = Math.round((step / most) * canvas.width);
                const to = Math.round(((steps[index + 1] ?? own) / most) * canvas.width);
                const level = Math.min(LEVELS - 1, Math.floor(share(values[index]) * LEVELS));
                context.fillStyle = palette[Math.max(0, level)];
                context.fillRect(from, Math.round(top * ratio), Math.max(1, to - from), Math.round((tall - 1) * ratio));
            });
            if (block in map.frozen) {
                drawFrozen(context, Math.round((map.frozen[block] / most) * canvas.width), Math.round((own / most) * canvas.width), Math.round(top * ratio), Math.round((tall - 1) * ratio));
            }
        }
        const trained = Object.keys(map.norms).length;
        canvas.setAttribute("aria-label", `${KINDS[kind]} of ${trained} blocks over ${most} steps; the blocks' names say their values`);
    }

    // From the step on at which a block was frozen only a thin line of its colours is left.
    function drawFrozen(context, from, to, top, height) {
        const rest = Math.max(1, Math.round(height / 3));
        context.clearRect(from, top, to - from, rest);
        context.clearRect(from, top + height - rest, to - from, rest);
    }

    // The shares at the chosen step, and the row that is chosen or under the pointer.
    function drawValues(map) {
        const { at } = runs.chart;
        const step = runs.step();
        const marked = hovered?.block ?? chosen;
        for (const line of parts.rows.querySelectorAll("[data-block]")) {
            const block = line.dataset.block;
            const share = at(map.shares[block], step);
            line.querySelector("em").textContent = share === null ? "" : `${(100 * share).toFixed(0)} %`;
            line.classList.toggle("blocktrain-is-chosen", block === marked);
            line.querySelector("button").setAttribute("aria-pressed", String(block === chosen));
            line.querySelector("button").title = told(map, block, step);
        }
        const where = hovered || (chosen ? { block: chosen, step } : null);
        parts.told.textContent = where && map.norms[where.block] ? told(map, where.block, where.step) : "Point at a block for its values; click to keep it.";
    }

    function told(map, block, step) {
        const { at } = runs.chart;
        const values = Object.keys(KINDS).map((kind) => `${KINDS[kind].toLowerCase()} ${shown(kind, at(map[kind][block], step))}`);
        const frozen = step >= map.frozen[block] ? ` · frozen at step ${map.frozen[block]}` : "";
        return `${block} · step ${step} · ${values.join(" · ")}${frozen}`;
    }

    // --- elements ---------------------------------------------------------------------------------------------------

    blocktrain.runHeat = (view) => {
        runs = blocktrain.runs;
        const { made } = runs;
        const { segments, chooses, stepAt } = runs.chart;
        const [low, high] = [made("span"), made("span")];
        const ramp = made("span", { className: "blocktrain-ramp" }, ...Array.from({ length: LEVELS }, (_, level) => {
            const cell = made("i");
            cell.style.background = `var(--blocktrain-heat-${level})`;
            return cell;
        }));
        const key = made("span", { className: "blocktrain-heat-k" }, low, ramp, high);
        const kinds = segments("heat", KINDS, "What the heat map shows");
        const head = made("div", { className: "blocktrain-sec-h" }, made("h2", { textContent: "Blocks × steps" }), key, made("span", { className: "blocktrain-sp" }), kinds);
        const rows = made("div", { className: "blocktrain-heat-r" });
        const canvas = made("canvas", { className: "blocktrain-heat-c" });
        canvas.setAttribute("role", "img");
        const line = made("i", { className: "blocktrain-head-line" });
        const heat = made("div", { className: "blocktrain-heat" }, rows, canvas, line);
        const words = made("p", { className: "blocktrain-line blocktrain-heat-t" });
        words.setAttribute("role", "status");
        const none = made("p", { className: "blocktrain-line" });
        view.querySelector(".blocktrain-blocks").append(head, heat, words, none);
        parts = { low, high, key, kinds, rows, canvas, line, heat, told: words, none };

        const blockAt = (event) => {
            const y = event.clientY - canvas.getBoundingClientRect().top;
            return [...places()].find(([, { top, height }]) => y >= top && y < top + height)?.[0] ?? null;
        };
        canvas.addEventListener("pointermove", (event) => {
            const block = blockAt(event);
            hovered = block ? { block, step: stepAt(canvas, event) } : null;
            draw();
        });
        canvas.addEventListener("pointerleave", () => {
            hovered = null;
            draw();
        });
        canvas.addEventListener("click", (event) => choose(blockAt(event) ?? chosen));
        chooses(canvas);
        runs.listeners.add(draw);
        new ResizeObserver(draw).observe(heat);
        // Another theme has other colours.
        const theme = new MutationObserver(draw);
        [document.documentElement, document.body].forEach((element) => theme.observe(element, { attributes: true, attributeFilter: ["class", "data-theme", "style"] }));
        matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    };
})();
