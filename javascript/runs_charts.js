// The loss of one or two runs over the steps, and the scrubber below it. The step chosen here is one line through the
// chart, the scrubber and the heat map (runs_heat.js), and the sample shown (runs_samples.js).
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const TICKS = 5;
    const HIGHEST = 0.99; // quantile of the loss that is in the picture: a spike is cut off
    const NAMES = { loss: "loss", smoothed: "smoothed", other: "B smoothed", validation: "validation", lr: "rate" };
    let runs; // blocktrain.runs
    let parts; // the chart's elements
    let scale; // value -> share of the height from the bottom

    const svg = (...given) => blocktrain.drawn(...given);

    // The mean of [steps, values] in which each step back counts `amount` times as much.
    function smoothed([steps, values], amount) {
        let [mean, weight, before] = [0, 0, 0];
        return [steps, values.map((value, index) => {
            const kept = amount ** Math.max(1, steps[index] - before);
            before = steps[index];
            mean = kept * mean + (1 - kept) * value;
            weight = kept * weight + (1 - kept);
            return mean / weight;
        })];
    }

    // The value of [steps, values] at a step: that of the last step up to it.
    function at(columns, step) {
        if (!columns || !columns[0].length || columns[0][0] > step) {
            return null;
        }
        let [low, high] = [0, columns[0].length - 1];
        while (low < high) {
            const middle = Math.ceil((low + high) / 2);
            [low, high] = columns[0][middle] <= step ? [middle, high] : [low, middle - 1];
        }
        return columns[1][low];
    }

    // What is drawn, by name.
    function lines() {
        const { data, state } = runs;
        const curves = data.curves?.curves || {};
        if (state.view === "lr") {
            const theirs = data.other?.curves.lr;
            return { ...(curves.lr ? { lr: curves.lr } : {}), ...(theirs ? { other: theirs } : {}) };
        }
        const found = {};
        if (curves.loss) {
            found.loss = curves.loss;
            found.smoothed = smoothed(curves.loss, state.smoothing);
        }
        if (data.other?.curves.loss) {
            found.other = smoothed(data.other.curves.loss, state.smoothing);
        }
        if (curves.validation) {
            found.validation = curves.validation;
        }
        return found;
    }

    function quantile(values, share) {
        const sorted = [...values].sort((a, b) => a - b);
        return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    }

    // Round numbers from 0 to at least `high`.
    function round(high) {
        const rough = high / TICKS;
        const ten = 10 ** Math.floor(Math.log10(rough));
        const distance = [1, 2, 2.5, 5, 10].map((factor) => factor * ten).find((candidate) => candidate >= rough - 1e-12);
        const count = Math.ceil(high / distance - 1e-9);
        return Array.from({ length: count + 1 }, (_, index) => index * distance);
    }

    // Round numbers between two, of which each is a multiple of the one before.
    function logarithmic(low, high) {
        for (const factors of [[1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
            const found = [];
            for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
                found.push(...factors.map((factor) => factor * 10 ** power));
            }
            const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
            if (inside.length >= 3 || factors.length > 3) {
                return inside.length > 8 ? inside.filter((value) => /^1(\.0+)?e|^10*$|^0\.0*1$/.test(String(value))) : inside;
            }
        }
        return [];
    }

    // The numbers at the axis: all with as many digits after the point as the finest needs, and 0 as "0".
    function labels(ticks) {
        const numbers = ticks.filter((tick) => tick > 0);
        if (numbers.length && Math.max(...numbers) < 0.001) {
            return ticks.map((tick) => (tick ? shortest(tick) : "0"));
        }
        const digits = Math.max(0, ...numbers.map((tick) => (String(Number(tick.toPrecision(3))).split(".")[1] || "").length));
        return ticks.map((tick) => (tick ? tick.toFixed(digits) : "0"));
    }

    const shortest = (value) => String(Number(value.toPrecision(2))).replace("e-0", "e-");

    function shown(name, value) {
        if (value === null) {
            return "–";
        }
        return name === "lr" ? shortest(value) : value.toPrecision(3);
    }

    // --- drawing ----------------------------------------------------------------------------------------------------

    let drawn = null; // what the chart was drawn from

    function draw() {
        const { data, state } = runs;
        const key = [data.curves, data.other, state.view, state.scale, state.smoothing];
        if (!drawn || key.some((value, index) => value !== drawn[index])) {
            drawn = key;
            drawLines();
        }
        drawStep();
    }

    function drawLines() {
        const { state } = runs;
        const found = lines();
        const names = Object.keys(found);
        parts.chart.classList.toggle("blocktrain-chart-none", !names.length);
        const log = state.scale === "log";
        const { low, high, ticks } = range(found, log);
        scale = log
            ? (value) => (Math.log10(Math.max(value, low)) - Math.log10(low)) / (Math.log10(high) - Math.log10(low))
            : (value) => value / high;
        const height = (value) => 100 * (1 - scale(value));
        const texts = labels(ticks);
        parts.axis.replaceChildren(...ticks.map((tick, index) => {
            const label = runs.made("span", { textContent: texts[index] });
            label.style.top = `${height(tick)}%`;
            return label;
        }));
        const grid = ticks.map((tick) => svg("line", { class: "blocktrain-g", x1: 0, x2: 100, y1: height(tick), y2: height(tick) }));
        const most = runs.last();
        const drawnLines = ["loss", "other", "validation", "smoothed", "lr"].filter((name) => found[name]).map((name) => {
            const [steps, values] = found[name];
            const points = steps.map((step, index) => `${((100 * step) / most).toFixed(3)},${height(values[index]).toFixed(2)}`);
            if (points.length === 1) {
                points.push(points[0]);
            }
            return svg("polyline", { class: `blocktrain-l-${name}`, points: points.join(" ") });
        });
        parts.plot.replaceChildren(...grid, ...drawnLines);
        parts.plot.setAttribute("aria-label", `${state.view === "lr" ? "Learning rate" : "Loss"} over ${most} steps`);
    }

    function range(found, log) {
        const all = Object.entries(found).flatMap(([name, [, values]]) => (name === "loss" ? [] : values));
        const loss = found.loss ? quantile(found.loss[1], HIGHEST) : 0;
        const top = Math.max(loss, ...all, 0) || 1;
        if (!log) {
            const ticks = round(top);
            return { low: 0, high: ticks[ticks.length - 1], ticks };
        }
        const positive = [...all, ...(found.loss?.[1] || [])].filter((value) => value > 0);
        const bottom = positive.length ? Math.min(...positive) : top / 10;
        const [low, high] = bottom < top ? [bottom, top] : [bottom / 2, top * 2];
        return { low, high, ticks: logarithmic(low, high) };
    }

    // What depends on the step alone: the line, the scrubber, the numbers.
    function drawStep() {
        const { made } = runs;
        const [step, most] = [runs.step(), runs.last()];
        parts.time.style.setProperty("--at", step / most);
        const found = lines();
        const curves = runs.data.curves?.curves || {};
        const names = Object.keys(found);
        parts.legend.replaceChildren(...names.map((name) =>
            made("span", {}, made("i", { className: `blocktrain-k blocktrain-l-${name}` }), label(name))));
        parts.range.max = most;
        if (Number(parts.range.value) !== step) {
            parts.range.value = step;
        }
        parts.range.setAttribute("aria-valuetext", `step ${step} of ${most}`);
        parts.number.replaceChildren(made("i", { textContent: "Step " }), String(step));
        parts.most.textContent = most;
        parts.most.title = `Of ${runs.data.curves?.steps ?? "?"} steps`;
        const samples = [...new Set((runs.data.curves?.samples || []).map((sample) => sample.step))];
        const key = `${samples.join()}/${most}`;
        if (parts.ticks.dataset.key !== key) {
            parts.ticks.dataset.key = key;
            parts.ticks.replaceChildren(...samples.map((at) => {
                const tick = made("i");
                tick.style.left = `${(100 * at) / most}%`;
                return tick;
            }));
        }
        tell(hovered ?? step, found, curves);
    }

    const label = (name) => (name === "other" && runs.state.view === "lr" ? "B rate" : NAMES[name]);

    let hovered = null; // the step under the pointer

    function tell(step, found, curves) {
        const { made } = runs;
        const share = step / runs.last();
        parts.tip.style.setProperty("--at", share);
        parts.hover.style.setProperty("--at", share);
        parts.hover.hidden = hovered === null;
        parts.tip.hidden = hovered === null && document.activeElement !== parts.range;
        parts.tip.classList.toggle("blocktrain-is-left", share > 0.6);
        const rows = Object.entries(found).map(([name, columns]) =>
            made("span", {}, made("i", { className: `blocktrain-k blocktrain-l-${name}` }), label(name), made("em", { textContent: shown(name, at(columns, step)) })));
        if (!found.lr && curves.lr) {
            rows.push(made("span", {}, made("i", { className: "blocktrain-k" }), NAMES.lr, made("em", { textContent: shown("lr", at(curves.lr, step)) })));
        }
        parts.tip.replaceChildren(made("b", { textContent: `step ${step}` }), ...rows);
    }

    // --- elements ---------------------------------------------------------------------------------------------------

    // Buttons of which one is pressed. `options`: value -> text.
    function segments(name, options, about) {
        const { made } = runs;
        const group = made("span", { className: "blocktrain-seg" });
        group.setAttribute("role", "group");
        group.setAttribute("aria-label", about);
        for (const [value, text] of Object.entries(options)) {
            const button = made("button", { type: "button", textContent: text });
            button.addEventListener("click", () => runs.set({ [name]: value }));
            group.append(button);
        }
        runs.listeners.add(() => [...group.children].forEach((button, index) =>
            button.setAttribute("aria-pressed", String(Object.keys(options)[index] === String(runs.state[name])))));
        return group;
    }

    function smoothing() {
        const { made } = runs;
        const range = made("input", { type: "range", min: 0, max: 3, step: 0.05, className: "blocktrain-smooth" });
        range.setAttribute("aria-label", "Smoothing");
        range.title = "How much the loss is smoothed: 0 not at all, 0.98 over about 50 steps";
        const said = made("span");
        const box = made("label", { className: "blocktrain-smooth-l" }, "smooth", range, said);
        range.addEventListener("input", () => runs.set({ smoothing: Number((1 - 10 ** -range.value).toPrecision(3)) }));
        runs.listeners.add(() => {
            const value = -Math.log10(1 - runs.state.smoothing);
            if (Math.abs(range.value - value) > 0.03) {
                range.value = value;
            }
            said.textContent = runs.state.smoothing;
            box.hidden = runs.state.view === "lr";
        });
        return box;
    }

    // The step at a horizontal place of an element that is as wide as all steps.
    function stepAt(element, event) {
        const { left, width } = element.getBoundingClientRect();
        return Math.round(Math.min(1, Math.max(0, (event.clientX - left) / width)) * runs.last());
    }

    // Pressing and dragging on an element chooses a step; the last one follows the run.
    function chooses(element) {
        const choose = (event) => {
            const step = stepAt(element, event);
            runs.set({ step: step >= runs.last() ? null : step });
        };
        element.addEventListener("pointerdown", (event) => {
            element.setPointerCapture(event.pointerId);
            choose(event);
        });
        element.addEventListener("pointermove", (event) => event.buttons && choose(event));
    }

    function build(view) {
        runs = blocktrain.runs;
        const { made } = runs;
        const time = view.querySelector(".blocktrain-time");
        const head = made("div", { className: "blocktrain-sec-h" });
        const legend = made("span", { className: "blocktrain-chart-legend" });
        const views = segments("view", { loss: "Loss", lr: "Rate" }, "What is drawn");
        const scales = segments("scale", { lin: "lin", log: "log" }, "Scale");
        head.append(made("h2", { textContent: "Loss" }), legend, made("span", { className: "blocktrain-sp" }), smoothing(), views, scales);
        runs.listeners.add(() => (head.firstChild.textContent = runs.state.view === "lr" ? "Learning rate" : "Loss"));
        const plot = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
        const axis = made("div", { className: "blocktrain-cy" });
        const line = made("i", { className: "blocktrain-head-line" });
        const hover = made("i", { className: "blocktrain-head-line blocktrain-is-hover", hidden: true });
        const tip = made("div", { className: "blocktrain-tip", hidden: true });
        const chart = made("div", { className: "blocktrain-chart" }, axis, made("div", { className: "blocktrain-cp" }, plot), line, hover, tip);
        view.querySelector(".blocktrain-loss").append(head, chart);

        const range = made("input", { type: "range", min: 0, step: 1, className: "blocktrain-range" });
        range.setAttribute("aria-label", "Step");
        range.addEventListener("input", () => runs.set({ step: Number(range.value) >= runs.last() ? null : Number(range.value) }));
        range.addEventListener("focus", draw);
        range.addEventListener("blur", draw);
        const number = made("b");
        const ticks = made("span", { className: "blocktrain-scrub-i" });
        const most = made("span", { className: "blocktrain-scrub-x" });
        view.querySelector(".blocktrain-scrub").append(number, made("div", { className: "blocktrain-scrub-t" }, range, ticks), most);
        parts = { time, chart, plot, axis, legend, line, hover, tip, range, number, ticks, most };
        chart.addEventListener("pointermove", (event) => {
            hovered = stepAt(chart, event);
            drawStep();
        });
        chart.addEventListener("pointerleave", () => {
            hovered = null;
            drawStep();
        });
        chooses(chart);
        runs.listeners.add(draw);
        blocktrain.runs.chart = { segments, chooses, stepAt, at, shown };
        blocktrain.runHeat?.(view);
        blocktrain.runSamples?.(view);
        runs.listeners.forEach((listener) => listener());
    }

    (blocktrain.components ||= new Map()).set("blocktrain-run-g", (view) => build(view));
})();
