// The right side of Pictures: the chosen picture large, with its crop and mask, its caption with the tags, and its facts.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const MODES = { plain: ["eye", "The whole picture"], crop: ["crop", "What training sees of it"], mask: ["mask", "Paint its mask"] };
    const SIDE = 1024; // pixels
    let root, head, stage, field, said, chips, chunks, facts, none, body;
    let shown = ["", ""]; // the picture that the stage shows, and how; and the state of its files

    const made = (...given) => blocktrain.made(...given);
    const percent = (share) => `${Math.round(100 * share)} %`;

    function bytes(count) {
        return count < 1e6 ? `${Math.max(1, Math.round(count / 1000))} KB` : `${(count / 1e6).toFixed(1)} MB`;
    }

    function button(className, label, about, run) {
        const made_ = made("button", { type: "button", className, title: about });
        made_.append(label);
        made_.setAttribute("aria-label", about);
        made_.addEventListener("click", run);
        return made_;
    }

    // --- the picture ------------------------------------------------------------------------------------------------

    function drawHead(one, index, count) {
        const { state } = dataset;
        const modes = made("span", { className: "blocktrain-seg" });
        modes.setAttribute("role", "group");
        modes.setAttribute("aria-label", "What is shown of the picture");
        for (const [mode, [sign, about]] of Object.entries(MODES)) {
            const choice = button("", dataset.icon(sign), about, () => dataset.set({ mode }));
            choice.dataset.mode = mode;
            choice.setAttribute("aria-pressed", String(state.mode === mode));
            modes.append(choice);
        }
        head.replaceChildren(
            made("h2", { className: "blocktrain-cut", textContent: one.name, title: one.picture }),
            made("span", { className: "blocktrain-of", textContent: `${index + 1} of ${count}` }),
            made("span", { className: "blocktrain-sp" }),
            modes
        );
    }

    function stepper(by) {
        const about = by < 0 ? "The picture before" : "The next picture";
        return button(`blocktrain-step-b blocktrain-is-${by < 0 ? "before" : "after"}`, dataset.icon(by < 0 ? "before" : "after"), about, (event) => {
            event.stopPropagation(); // not the crop's focus
            const key = dataset.step(by);
            key && dataset.reveal(key);
        });
    }

    function drawStage(one) {
        const { state } = dataset;
        const key = JSON.stringify([state.set, one.picture, state.mode, one.crop, one.focus, one.mask, one.problem]);
        const files = JSON.stringify([one.version, one.share]);
        const painting = state.mode === "mask" && dataset.isPainted(one); // the brush stays in the hand
        if (key === shown[0] && (files === shown[1] || painting)) {
            return;
        }
        shown = [key, files];
        stage.replaceChildren();
        stage.className = `blocktrain-crop blocktrain-in-${state.mode}`;
        stage.onclick = null;
        if (one.problem) {
            stage.append(made("p", { className: "blocktrain-failure", textContent: one.problem }));
        }
        if (!one.bucket) {
            return;
        }
        const image = made("img", { alt: one.name });
        image.style.aspectRatio = `${one.width} / ${one.height}`;
        dataset.show(image, state.set, one, SIDE);
        const frame = made("div", { className: "blocktrain-crop-f" }, image);
        stage.append(frame);
        if (state.mode !== "mask") {
            frame.append(stepper(-1), stepper(1));
        }
        if (state.mode === "mask") {
            stage.append(...dataset.maskPainter(frame, one));
        } else if (state.mode === "crop" && one.crop) {
            const [left, top, right, bottom] = one.crop;
            const cropped = made("i", {});
            Object.assign(cropped.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
            frame.append(cropped, made("span", { textContent: `${one.width}×${one.height} → ${one.bucket.join("×")}` }));
            if (one.focus) {
                const point = made("b", { title: "What the crop keeps in sight" });
                Object.assign(point.style, { left: `${100 * one.focus[0]}%`, top: `${100 * one.focus[1]}%` });
                frame.append(point);
            }
            frame.title = "Click on what the crop is to keep in sight";
            stage.onclick = (event) => {
                const { left: x, top: y, width, height } = frame.getBoundingClientRect();
                setFocus(one, [(event.clientX - x) / width, (event.clientY - y) / height]);
            };
        }
    }

    function setFocus(one, at) {
        const focus = at && at.map((part) => Math.round(1000 * Math.min(1, Math.max(0, part))) / 1000);
        return dataset.attempt(async () => {
            const { change } = await dataset.ask("focus", { set: dataset.state.set, picture: one.picture, focus });
            await dataset.reload();
            dataset.did(change, focus ? `The crop of ${one.name} keeps this point in sight.` : `The crop of ${one.name} is centred again.`);
        });
    }

    // --- the caption ------------------------------------------------------------------------------------------------

    function drawCaption(one) {
        const text = dataset.caption(one);
        if (field.dataset.key !== one.picture || field.value !== text) {
            field.value = text;
            field.dataset.key = one.picture;
        }
        field.disabled = !one.bucket;
        const typed = dataset.isDraft(one);
        said.textContent = typed ? "not saved: Enter saves" : one.caption === null ? "none" : "saved";
        said.className = typed ? "blocktrain-mod" : one.caption === null ? "blocktrain-is-none" : "";
        root.querySelector("[data-save]").hidden = !typed;
        drawChips(one, dataset.tagsOf(text));
        drawChunks(one, typed);
    }

    // Change the tags of the picture and save: a click asks for it.
    async function setTags(one, tags) {
        dataset.draft(one.picture, dataset.withTags(dataset.caption(one), tags));
        await dataset.saveCaption(one.picture);
    }

    function drawChips(one, tags) {
        if (chips.contains(document.activeElement) && document.activeElement.matches("input")) {
            return; // a tag is being typed
        }
        const all = tags.map((tag, index) => {
            const remove = button("", dataset.icon("x"), `Remove ${tag}`, () => setTags(one, tags.filter((_, other) => other !== index)));
            const chip = made("span", { className: "blocktrain-tag blocktrain-is-own", title: tag }, made("span", { textContent: tag }), remove);
            dataset.movableTag(chip, remove, "own", index, tags.length, async (from, to) => {
                await setTags(one, dataset.movedTag(tags, from, to));
                chips.querySelectorAll("button")[to]?.focus();
            });
            return chip;
        });
        const add = button("blocktrain-tag blocktrain-is-add", dataset.icon("plus"), "Add a tag to this caption", () => typeTag(one, tags, add));
        add.append("tag");
        chips.replaceChildren(...all, add);
    }

    function typeTag(one, tags, add) {
        const input = made("input", { type: "text", className: "blocktrain-in blocktrain-in-s", autocomplete: "off" });
        input.setAttribute("aria-label", "Tag to add");
        input.setAttribute("list", "blocktrain_dataset_tags");
        const known = made("datalist", { id: "blocktrain_dataset_tags" });
        (dataset.state.listing?.tags || []).slice(0, 200).forEach(([tag]) => known.append(made("option", { value: tag })));
        const done = () => {
            input.blur();
            input.replaceWith(add);
            known.remove();
        };
        input.addEventListener("keydown", (event) => {
            if (event.key === "Enter" && !event.isComposing) {
                event.preventDefault();
                event.stopPropagation();
                const tag = input.value.trim();
                done();
                if (tag && !tags.includes(tag)) {
                    setTags(one, [...tags, tag]);
                }
            } else if (event.key === "Escape") {
                event.stopPropagation();
                done();
            }
        });
        add.replaceWith(input, known);
        input.focus();
    }

    // Where a caption has several chunks, its words by chunk: what is in a later one acts less together with the first.
    function drawChunks(one, typed) {
        if (one.tokens === null || typed) {
            chunks.hidden = true;
            return;
        }
        chunks.hidden = false;
        const starts = one.chunks;
        chunks.replaceChildren(`${dataset.many(one.tokens, "token")} of ${75 * Math.max(1, starts.length)}`);
        if (starts.length > 1) {
            const text = one.caption_used;
            starts.slice(1).forEach((start, index) => {
                const begins = text.slice(start, start + 24).trim();
                chunks.append(` · chunk ${index + 2} begins at “${begins}${text.length > start + 24 ? "…" : ""}”`);
            });
        }
        chunks.title = "The text encoder reads 75 tokens at once; a longer caption is read in several chunks";
    }

    // --- facts ------------------------------------------------------------------------------------------------------

    function fact(name, ...values) {
        return [made("dt", { textContent: name }), made("dd", {}, ...values.filter((value) => value !== null))];
    }

    const link = (label, about, run) => button("blocktrain-btn blocktrain-link", label, about, run);

    function drawFacts(one) {
        const { state } = dataset;
        const rows = [...fact("Size", `${one.width}×${one.height} · ${bytes(one.bytes)}`)];
        if (one.bucket) {
            const times = one.resized[0] / one.width;
            const enlarged = times > 1.05 ? `enlarged ${times.toFixed(1)}× · ` : "";
            const cut = one.cut >= 0.005 ? `${percent(one.cut)} cut off` : "nothing cut off";
            rows.push(...fact("Bucket", `${one.bucket.join("×")} · ${enlarged}${cut}`));
        }
        const where = one.focus ? `${percent(one.focus[0])} across, ${percent(one.focus[1])} down` : "the centre";
        rows.push(...fact("Crop keeps", where, one.focus ? link("Centre", "Crop around the centre again", () => setFocus(one, null)) : null));
        rows.push(...fact("Repeats", `${one.repeats}, of ${one.folder} `, dataset.openSet()?.kind === "own" ? link("Change", "How often each picture of this folder is shown in an epoch", changeRepeats) : null));
        const masked = one.mask === "alpha" ? "its alpha channel" : one.mask ? (one.share === null ? "there " : `${percent(one.share)} of the picture counts `) : "none ";
        const paint = link(one.mask ? "Edit" : "Paint", "Paint where the loss counts", () => dataset.set({ mode: "mask" }));
        rows.push(...fact("Mask", masked, one.mask === "alpha" ? null : paint));
        if (one.duplicates.length) {
            const others = one.duplicates.map((key) => link(dataset.picture(key)?.name || key, "Go to it", () => (dataset.choose(key), dataset.reveal(key))));
            rows.push(...fact("Looks like", ...others));
        }
        rows.push(...fact("File", made("span", { className: "blocktrain-cut", textContent: one.picture, title: `${dataset.openSet()?.folder || ""} ${one.picture}` })));
        facts.replaceChildren(...rows);
        facts.hidden = !one.bucket;
        facts.dataset.set = state.set;
    }

    function changeRepeats() {
        const input = made("input", { type: "number", min: 1, max: 1000, value: dataset.picture().repeats, className: "blocktrain-in", name: "repeats" });
        const field_ = made("label", { className: "blocktrain-f" }, made("span", { textContent: "Repeats" }), input);
        const { label } = dataset.picture();
        dataset.dialog(`Repeats of ${label}`, {
            about: "How often each of its pictures is shown in an epoch. The folder is renamed.",
            body: [field_],
            go: "Change",
            run: () =>
                dataset.attempt(async () => {
                    await dataset.ask("repeats", { set: dataset.state.set, repeats: Math.round(Number(input.value)), label });
                    await dataset.loadSets();
                    await dataset.reload();
                }, "Changing …"),
        });
    }

    // --- set-up -----------------------------------------------------------------------------------------------------

    function draw() {
        const all = dataset.shown();
        const one = dataset.picture();
        none.hidden = Boolean(one);
        body.hidden = !one;
        if (one) {
            drawHead(one, all.indexOf(one), all.length);
            drawStage(one);
            drawCaption(one);
            drawFacts(one);
        } else {
            shown = ["", ""];
        }
    }

    // Put the cursor at the end of the caption.
    function editCaption() {
        blocktrain.segment?.("pictures", "chosen");
        field.focus();
        field.setSelectionRange(field.value.length, field.value.length);
    }

    (blocktrain.components ||= new Map()).set("blocktrain-dataset-chosen", (element) => {
        head = made("div", { className: "blocktrain-sec-h" });
        stage = made("div", { className: "blocktrain-crop" });
        said = made("small", {});
        const save = link("Save", "Save this caption", () => dataset.saveCaption(field.dataset.key));
        save.dataset.save = "";
        field = made("textarea", { className: "blocktrain-in", rows: 3, spellcheck: false, placeholder: "Write a caption", id: "blocktrain_dataset_caption" });
        field.addEventListener("input", () => dataset.draft(field.dataset.key, field.value));
        field.addEventListener("keydown", (event) => {
            const one = dataset.picture(field.dataset.key);
            one && dataset.captionKeys(event, one, field, (key) => key && dataset.reveal(key));
        });
        const label = made("label", { htmlFor: field.id }, "Caption ", said);
        chips = made("div", { className: "blocktrain-tags" });
        chunks = made("p", { className: "blocktrain-foot" });
        facts = made("dl", { className: "blocktrain-facts" });
        none = made("p", { className: "blocktrain-line", textContent: "The chosen picture is shown here." });
        body = made("div", {}, head, stage, made("div", { className: "blocktrain-caption-h" }, label, save), field, chunks, chips, facts);
        root = made("section", { className: "blocktrain-sec blocktrain-insp" }, none, body);
        element.append(root);
        dataset.listeners.add(draw);
        draw();
    });
    Object.assign(dataset, { editCaption });
})();
