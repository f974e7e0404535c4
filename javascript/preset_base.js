// What the weights on a map's sliders are compared with: the preset that they came from, or else the weights as they
// were loaded; one for each LoRA. The presets are read from the cards. The field "preset", which is not shown, tells the
// server the name; the server changes it when it has saved, renamed or read a preset. Preview's map has the weights for
// kinds of layers and over the steps beside its sliders, as text in a field: `changes`.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const bases = new Map(); // by map and LoRA -> {name, weights, changes}
    const subjects = new Map(); // by map -> the LoRA whose weights it showed last
    const seen = new Set(); // maps and LoRAs that were there when presets came
    const remembered = new WeakMap(); // weights in a map's history -> {base, changes}
    const SAME = 0.0051; // a slider shows a weight that differs from it by less: its step is 0.01
    const KEPT = "presets of the weights";
    const PREVIEW = "blocktrain_u_weights"; // the map whose preset the field names; a page may have others
    let written = ""; // what this script last wrote into the field

    const key = (map) => `${map.element.id} ${map.element.dataset.subject}`;
    const shown = (number) => String(Number(number.toFixed(2))).replace("-", "−");
    const differ = (one, other) => other !== undefined && Math.abs(one - other) > SAME;
    const present = (map) => map.ids.filter((id) => !map.blocks.get(id).dataset.absent);

    // All presets for the loaded model, in the order of their cards.
    function presets() {
        return [...document.querySelectorAll(".blocktrain-cards .blocktrain-card[data-weights]")].map((card) => ({
            name: card.dataset.name,
            own: "own" in card.dataset,
            purpose: card.querySelector("p").textContent,
            picture: card.querySelector("svg"),
            words: card.dataset.words,
            weights: (card.weights ||= JSON.parse(card.dataset.weights)),
            changes: card.dataset.changes,
        }));
    }

    const baseOf = ({ name, weights, changes }) => ({ name, weights, changes });
    const field = () => document.querySelector("#blocktrain_preset :is(textarea, input)");
    const changesField = () => document.querySelector("#blocktrain_weight_changes :is(textarea, input)");
    const changesOf = (map) => (map.element.id === PREVIEW && changesField()?.value.trim()) || "";

    function write(name) {
        const box = field();
        written = name;
        if (box && box.value !== name) {
            box.value = name;
            box.dispatchEvent(new Event("input", { bubbles: true }));
        }
    }

    function writeChanges(text) {
        const box = changesField();
        if (box && box.value !== text) {
            box.value = text;
            box.dispatchEvent(new Event("input", { bubbles: true }));
            setTimeout(() => box.dispatchEvent(new Event("blur"))); // the server says how they are understood
        }
    }

    const fits = (map, weights) => present(map).every((id) => !differ(map.weight(id), weights[id]));

    // The preset that has these weights exactly; else the one that the server has just named; else none.
    function identify(map) {
        const known = presets();
        const named = map.element.id === PREVIEW && known.find((preset) => preset.name === field()?.value);
        const fitting = known.filter((preset) => fits(map, preset.weights));
        const whole = fitting.filter((preset) => preset.changes === changesOf(map));
        const best = whole.length ? whole : fitting;
        const found = best.includes(named) ? named : best[0] || (named?.name !== written && named);
        return found ? baseOf(found) : { name: "", weights: map.weights(), changes: changesOf(map) };
    }

    function set(map, base) {
        bases.set(key(map), base);
        if (map.element.id === PREVIEW) {
            write(base.name);
        }
        blocktrain.remember?.(KEPT, Object.fromEntries([...bases].map(([id, { name }]) => [id, name])));
    }

    // The preset that the weights of this LoRA came from before the page was loaded again.
    function kept(map) {
        const name = blocktrain.recall?.(KEPT)?.[key(map)];
        const found = name && presets().find((preset) => preset.name === name);
        return found && baseOf(found);
    }

    // The base of the weights that a map shows; null while the sliders are not all there.
    function of(map) {
        if (!bases.has(key(map)) && map.sliders?.complete()) {
            bases.set(key(map), identify(map));
        }
        return bases.get(key(map)) || null;
    }

    // Called when weights were loaded: new ones for the same LoRA, or those that another LoRA had before.
    function loaded(map) {
        const { subject } = map.element.dataset;
        const another = subjects.get(map.element.id) !== subject;
        subjects.set(map.element.id, subject);
        set(map, (another && (bases.get(key(map)) || kept(map))) || identify(map));
    }

    // The blocks whose weights differ from the base, in order.
    function changes(map) {
        const base = of(map);
        return base ? present(map).filter((id) => differ(map.weight(id), base.weights[id])) : [];
    }

    // The number of these blocks, and one more where the weights beside the sliders differ.
    const count = (map) => changes(map).length + (of(map) && of(map).changes !== changesOf(map) ? 1 : 0);

    // Blocks as text, with those in a row as a span: IN04, OUT06–OUT11.
    function spans(map, ids) {
        const there = present(map);
        const groups = [];
        for (const id of there.filter((each) => ids.includes(each))) {
            const last = groups[groups.length - 1];
            if (last && id !== "BASE" && there.indexOf(id) === there.indexOf(last[last.length - 1]) + 1) {
                last.push(id);
            } else {
                groups.push([id]);
            }
        }
        const ends = (group) => (group.length > 2 ? [`${group[0]}–${group[group.length - 1]}`] : group);
        return groups.flatMap(ends).join(", ");
    }

    // In words: what has changed, or what the weights are. A head, nothing, and the rest.
    function words(map) {
        const base = of(map);
        const changed = changes(map);
        if (!base) {
            return ["", "", ""];
        }
        if (changed.length) {
            const change = (id) => `${id} ${shown(base.weights[id])} → ${shown(map.weight(id))}`;
            return [`${changed.length} changed`, "", changed.map(change).join(", ")];
        }
        const blocks = present(map).filter((id) => id !== "BASE");
        const weights = new Map();
        blocks.forEach((id) => weights.set(map.weight(id), [...(weights.get(map.weight(id)) || []), id]));
        if (weights.size === 1) {
            return ["", "", `every block at ${shown(map.weight(blocks[0]))}`];
        }
        const listed = [...weights].filter(([weight]) => weight !== 0).sort(([one], [other]) => other - one);
        const others = weights.has(0) ? ", others 0" : "";
        return ["", "", listed.map(([weight, ids]) => `${spans(map, ids)} ${shown(weight)}`).join(", ") + others];
    }

    // The presets have changed: one was saved, renamed or deleted, or another model is loaded.
    function presetsChanged() {
        const known = new Map(presets().map((preset) => [preset.name, preset]));
        const named = known.get(field()?.value);
        for (const [mapId] of subjects) {
            const map = blocktrain.uMap.find(mapId);
            const base = map?.sliders?.complete() && bases.get(key(map));
            if (!base) {
                continue;
            }
            const before = base.name === "" && !seen.has(key(map)) && kept(map);
            seen.add(key(map));
            const renamed = mapId === PREVIEW && named && named.name !== base.name && (!known.has(base.name) || fits(map, named.weights));
            if (before || renamed) {
                set(map, before || baseOf(named));
            } else if (known.has(base.name)) {
                set(map, baseOf(known.get(base.name)));
            } else {
                const found = identify(map);
                set(map, found.name ? found : { ...base, name: "" });
            }
            map.draw();
        }
    }

    blocktrain.presetBase = {
        presets,
        of,
        loaded,
        changes,
        count,
        spans,
        words,
        presetsChanged,
        // Called when a preset's weights have been written to the sliders.
        use(map, preset) {
            set(map, baseOf(preset));
            writeChanges(preset.changes);
        },
        remember: (map, weights) => remembered.set(weights, { base: of(map), changes: changesOf(map) }),
        // Called when a step of the map's history is on the sliders, as they show it.
        restore(map, weights) {
            const step = remembered.get(weights);
            if (!step?.base) {
                return;
            }
            const another = step.base !== of(map); // else what is typed beside the sliders stays
            set(map, step.base);
            for (const [id, weight] of Object.entries(step.base.weights)) {
                if (!differ(map.weight(id), weight)) {
                    map.sliders.write(id, weight);
                }
            }
            if (another) {
                writeChanges(step.changes);
            }
        },
    };
})();
