// One picture in the grid, the buckets or the list of Pictures; its caption is edited in place.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    let editing = ""; // the key of the picture whose caption is edited in its cell

    const made = (...given) => blocktrain.made(...given);

    // The element for a box of `layout`.
    function cell(box, view) {
        if (box.head) {
            return made("h3", { className: "blocktrain-bucket" }, box.head.title, made("em", { textContent: box.head.pictures.length }), made("small", { textContent: box.about }));
        }
        if (box.drop) {
            return drop();
        }
        const { one } = box;
        const picture = made("button", { type: "button", className: "blocktrain-pic-b" }, made("img", { alt: one.name, draggable: false }));
        const whole = made("div", { className: "blocktrain-pic" }, picture);
        whole.dataset.key = one.picture;
        if (view !== "buckets") {
            const box = made("input", { type: "checkbox", tabIndex: -1 });
            box.setAttribute("aria-label", `Choose ${one.name}`);
            const caption = made("p", {});
            caption.addEventListener("click", (event) => {
                if (!event.target.matches("textarea")) {
                    edit(one.picture);
                }
            });
            whole.append(box, caption);
        }
        return whole;
    }

    function drop() {
        const choose = made("button", { type: "button", className: "blocktrain-btn", textContent: "Choose files" });
        choose.addEventListener("click", () => dataset.chooseFiles(false));
        return made("div", { className: "blocktrain-drop" }, dataset.icon("up"), made("b", { textContent: "Drop pictures or a folder" }), made("span", { textContent: "PNG, JPEG, WebP; .txt captions come along" }), choose);
    }

    function badge(kind, sign, text, about) {
        const shown = made("span", { className: `blocktrain-badge blocktrain-is-${kind}`, title: about }, dataset.icon(sign));
        if (text) {
            shown.append(text);
        }
        return shown;
    }

    const ratio = (one) => (Math.max(one.width, one.height) / Math.min(one.width, one.height)).toFixed(1);

    function badges(one) {
        const found = [];
        const warn = one.problem
            ? [one.bucket ? "caption cannot be read" : "cannot be read", one.problem]
            : one.flags.includes("small")
              ? ["small", "Smaller than the training size: it is enlarged"]
              : one.flags.includes("odd aspect")
                ? [`odd aspect ${ratio(one)}`, "Long and narrow: much of it is cut off, or it has a bucket of its own"]
                : one.flags.includes("duplicate")
                  ? ["duplicate", "Another picture of the set looks the same"]
                  : one.flags.includes("no caption")
                    ? ["no caption", one.caption_used ? `Trained on “${one.caption_used}”, from its folder` : "Trained on an empty prompt"]
                    : null;
        if (warn) {
            found.push(badge("warn", "warn", ...warn));
        }
        if (dataset.isPainted(one)) {
            found.push(badge("warn blocktrain-is-mask", "mask", "not saved", "Its mask is painted but not saved"));
        } else if (one.mask) {
            found.push(badge("mask", "mask", "", "It has a mask"));
        }
        return made("span", { className: "blocktrain-pic-badges" }, ...found);
    }

    // Bring a cell up to date; what is as it was is left alone, so that scrolling costs little.
    function fill(whole, box) {
        const { one } = box;
        if (!one) {
            return;
        }
        const { state } = dataset;
        const [chosen, current, typed] = [state.chosen.has(one.picture), one.picture === state.current, dataset.isDraft(one)];
        const text = dataset.caption(one);
        const key = JSON.stringify([chosen, current, typed, text, one.version, one.flags, one.mask, dataset.isPainted(one), one.problem, editing === one.picture]);
        if (whole.dataset.drawn === key) {
            return;
        }
        whole.dataset.drawn = key;
        whole.classList.toggle("blocktrain-is-sel", chosen);
        whole.classList.toggle("blocktrain-is-current", current);
        whole.classList.toggle("blocktrain-is-typed", typed);
        const picture = whole.querySelector(".blocktrain-pic-b");
        picture.tabIndex = current ? 0 : -1;
        picture.setAttribute("aria-label", `${one.name}, ${one.width}×${one.height}`);
        picture.setAttribute("aria-pressed", String(chosen));
        const odd = one.flags.includes("small") || one.flags.includes("odd aspect");
        const size = made("span", { className: `blocktrain-pic-s${odd ? " blocktrain-is-odd" : ""}`, textContent: `${one.width}×${one.height}` });
        picture.replaceChildren(picture.querySelector("img"), size, badges(one));
        if (one.bucket) {
            dataset.show(picture.querySelector("img"), state.set, one, 256);
        }
        const check = whole.querySelector("input[type=checkbox]");
        if (check) {
            check.checked = chosen;
            fillCaption(whole.querySelector("p"), one, text);
        }
    }

    function fillCaption(place, one, text) {
        const field = place.querySelector("textarea");
        if (editing !== one.picture) {
            place.replaceChildren(text || (one.bucket ? "" : one.name));
            place.title = text;
        } else if (!field) {
            place.replaceChildren(editor(one, text));
        } else if (field.value !== text) {
            field.value = text;
        }
    }

    function editor(one, text) {
        const field = made("textarea", { value: text, spellcheck: false, className: "blocktrain-in", rows: 3 });
        field.setAttribute("aria-label", `Caption of ${one.name}`);
        field.addEventListener("input", () => dataset.draft(one.picture, field.value));
        field.addEventListener("keydown", (event) => keys(event, one, field, (key) => (key ? edit(key) : close())));
        field.addEventListener("blur", () => editing === one.picture && close());
        setTimeout(() => {
            field.focus({ preventScroll: true });
            field.setSelectionRange(field.value.length, field.value.length);
        });
        return field;
    }

    // The keys of a field for a caption, in a cell and beside the large picture: Enter saves and `go`es on with the next
    // picture's key, Page Up and Down go on without saving, Escape takes back what was typed.
    async function keys(event, one, field, go) {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            event.stopPropagation(); // Ctrl+Enter is the bar's button otherwise
            const before = dataset.state.current;
            const saving = dataset.saveCaption(one.picture);
            const next = dataset.step(1);
            go(next && next !== before ? next : "");
            await saving;
        } else if (event.key === "PageDown" || event.key === "PageUp") {
            event.preventDefault();
            go(dataset.step(event.key === "PageDown" ? 1 : -1));
        } else if (event.key === "Escape") {
            event.preventDefault();
            event.stopPropagation();
            dataset.draft(one.picture, one.caption ?? "");
            field.value = one.caption ?? "";
            go("");
        }
    }

    function edit(key) {
        editing = key;
        dataset.choose(key);
        dataset.reveal(key);
    }

    function close() {
        if (editing) {
            editing = "";
            dataset.set({});
        }
    }

    Object.assign(dataset, { cell, fillCell: fill, captionKeys: keys });
})();
