// What a set is worth to a training, on the left of Pictures: steps and buckets, the subject's share, warnings with the preset
// that each argues for, and the blocks that training on the set would change.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const probes = new Map(); // results by set
    let probing = null; // {set, name, place} of the probe that runs, one at a time
    let parts = null; // {facts, list, probe, bars}

    const made = (...given) => blocktrain.made(...given);

    function link(label, about, run) {
        const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: label, title: about });
        button.addEventListener("click", run);
        return button;
    }

    // Make a preset, or weights that were found, those of Train.
    function weigh(weights, name) {
        return dataset.attempt(async () => {
            const before = dataset.trainWeights();
            const answer = await dataset.ask("weigh", { weights }, { button: "dataset_weigh_now" });
            const instead = before && before !== answer.weights ? `, in place of “${before}”` : "";
            const back = before && before !== answer.weights ? { label: "Undo", run: () => weigh(before, "as before") } : null;
            dataset.say([`Train's weights are ${name} now${instead}.`, ...answer.notices].join(" "), "note", back);
        });
    }

    function warned(warning) {
        const line = made("li", {}, dataset.icon("warn"), made("span", { textContent: warning.text }));
        if (warning.argues_for) {
            const grade = warning.grade && warning.grade !== "-" ? ` (evidence: ${warning.grade})` : "";
            line.lastChild.append(made("small", { textContent: `This argues for ${warning.argues_for}${grade}.` }));
        }
        if (warning.preset) {
            const about = `Train's weights become the preset ${warning.preset}`;
            line.lastChild.append(link(`Train with ${warning.preset}`, about, () => weigh(warning.preset, warning.preset)));
        }
        return line;
    }

    function draw() {
        const { worth, retest, set } = dataset.state;
        parts.root.hidden = !worth?.pictures;
        if (parts.root.hidden) {
            return;
        }
        const steps = `${dataset.many(worth.steps_an_epoch, "step")} an epoch${worth.batch > 1 ? ` at batch ${worth.batch}` : ""}`;
        parts.facts.textContent = `${steps} · ${dataset.many(worth.buckets.length, "bucket")}`;
        parts.canvas.textContent = worth.canvas;
        parts.canvas.hidden = !worth.canvas;
        const lines = worth.warnings.map(warned);
        if (retest) {
            const again = made("li", {}, dataset.icon("warn"), made("span", { textContent: `${retest}. ` }));
            again.lastChild.append(probing ? "" : link("Test these pictures", "Which blocks training on this set would change", probe));
            lines.unshift(again);
        }
        parts.list.replaceChildren(...lines);
        drawProbe(set);
        drawBars(probes.get(set));
    }

    // --- the probe --------------------------------------------------------------------------------------------------

    // How far the probe is, at its set only; or the way to it.
    function drawProbe(set) {
        if (probing?.set === set) {
            parts.probe.replaceChildren(probing.place);
        } else if (probing) {
            parts.probe.replaceChildren(made("p", { className: "blocktrain-foot", textContent: `${probing.name} is being probed.` }));
        } else {
            parts.probe.replaceChildren(link(probes.has(set) ? "Probe again" : "Where would training move?", "Which blocks the gradients of up to 16 of these pictures reach", probe));
        }
    }

    async function probe() {
        const { set, name } = dataset.openSet();
        const place = made("div", {});
        probing = { set, name, place };
        draw();
        const found = await dataset.attempt(() => dataset.job(place, "Probing the pictures", "probe set", { set }));
        if (found) {
            probes.set(set, found);
        }
        probing = null;
        draw();
    }

    function drawBars(found) {
        parts.bars.hidden = !found;
        if (!found) {
            return;
        }
        const most = Math.max(...found.blocks.map((one) => one.mean)) || 1;
        const rows = found.blocks.map((one) => {
            const noise = one.within_noise ? "within the noise" : one.noise === null ? "" : `±${one.noise.toFixed(3)}`;
            const bar = made("i", {});
            bar.style.width = `${100 * Math.max(0, one.mean / most)}%`;
            const row = made("li", { title: `${one.block}: ${one.mean.toFixed(3)} ${noise}` }, made("b", { textContent: one.block }), made("span", {}, bar), made("em", { textContent: Math.max(0, one.mean).toFixed(3) }));
            row.classList.toggle("blocktrain-is-noise", one.within_noise);
            return row;
        });
        const words = `Size of the loss's gradient by block, over that of all blocks, of ${dataset.many(found.pictures, "picture")}; pale: within the noise.`;
        const weights = found.weights
            ? link("Train with these weights", "Train's weights become these, in proportion", () => weigh(found.weights, "those of the probe"))
            : made("span", { textContent: "No block is above the noise: more pictures, or more similar ones, tell more." });
        const more = link("Compare in Analyse", "To Analyse, to compare them with a class of pictures", () =>
            dataset.attempt(() => dataset.ask("probe", { set: dataset.state.set }, { button: "dataset_probe_now" }))
        );
        const notices = found.notices.map((notice) => made("p", { className: "blocktrain-foot", textContent: notice }));
        parts.bars.replaceChildren(made("ul", { className: "blocktrain-set-bars" }, ...rows), made("p", { className: "blocktrain-foot", textContent: words }), ...notices, made("p", {}, weights, " ", more));
    }

    // Builds the section in `root`.
    function buildWorth(root) {
        parts = {
            root,
            facts: made("p", { className: "blocktrain-line" }),
            canvas: made("p", { className: "blocktrain-foot" }),
            list: made("ul", { className: "blocktrain-worth" }),
            probe: made("div", {}),
            bars: made("div", {}),
        };
        root.append(made("div", { className: "blocktrain-sec-h" }, made("h2", { textContent: "For training" })), parts.facts, parts.canvas, parts.list, parts.probe, parts.bars);
    }

    Object.assign(dataset, { buildWorth, drawWorth: draw });
})();
