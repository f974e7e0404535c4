// Changes to many captions of Pictures: each in a dialog that shows, before anything is written, how many captions it changes.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const PAUSE = 250; // milliseconds after a key until the change is tried out
    const EXAMPLES = 4;
    // Fields: [name, label, placeholder], or [name, label] of a checkbox; `done` is said of a change.
    const KINDS = {
        trigger: { title: "Trigger word in front", fields: [["word", "Word", "ohwx robot"]], foot: "It becomes the first tag of every caption; where it is in already, it moves there." },
        "add tag": { title: "Add a tag", fields: [["tag", "Tag", "blue background"], ["start", "At the start"]], foot: "Captions that have it already stay." },
        replace: { title: "Find and replace", fields: [["find", "Find", "red"], ["replace", "Replace with", "blue"], ["whole_tag", "Whole tags only"], ["case", "Match case"]] },
        "remove tag": { title: "Remove a tag", fields: [["tag", "Tag", "watermark"]] },
        "from names": { title: "From file names", fields: [["overwrite", "Replace captions that are there"]], foot: "red_hat-012.png becomes “red hat”." },
        "from folders": { title: "From folders", fields: [["overwrite", "Replace captions that are there"]], foot: "Pictures in 10_robot get “robot”." },
        "sort by count": { title: "Frequent tags first", fields: [], foot: "The tags of every caption, by how often they are in the set." },
        order: { title: "Tags in the order of the list", fields: [], foot: "The tags of every caption, as they stand in the list of tags: drag them there, or move them with Alt and an arrow key." },
        clear: { title: "Empty the captions", fields: [] },
    };
    const GROUPS = [["trigger", "add tag", "replace", "remove tag"], ["from names", "from folders"], ["sort by count", "order", "clear"]];

    // The items of the menu "Caption all…".
    function captionItems(item) {
        const groups = GROUPS.map((kinds) => kinds.map((kind) => item(`${KINDS[kind].title}…`, KINDS[kind].foot || "", () => change(kind))));
        return groups.flatMap((items, index) => (index ? [document.createElement("hr"), ...items] : items));
    }

    function operation(kind, form) {
        const values = Object.fromEntries(
            KINDS[kind].fields.map(([name]) => {
                const field = form.elements[name];
                return [name, field.type === "checkbox" ? field.checked : field.value];
            })
        );
        const { start, ...others } = values;
        return { op: kind, ...others, ...(kind === "order" ? { tags: dataset.tagOrder() } : {}), ...(start === undefined ? {} : { at: start ? "start" : "end" }) };
    }

    function fieldOf([name, label, placeholder], value) {
        const { made } = blocktrain;
        if (placeholder === undefined) {
            const box = made("input", { type: "checkbox", name });
            box.checked = name === "case";
            return made("label", { className: "blocktrain-check" }, box, label);
        }
        const input = made("input", { type: "text", name, placeholder, value: value || "", className: "blocktrain-in", autocomplete: "off" });
        return made("label", { className: "blocktrain-f" }, made("span", { textContent: label }), input);
    }

    // One change as "before → after".
    function example(edit) {
        const { made } = blocktrain;
        const name = dataset.picture(edit.picture)?.name || edit.picture;
        const after = edit.after === null ? "(no caption)" : edit.after.split("\n")[0] || "(empty)";
        const before = edit.before === null ? "(no caption)" : edit.before.split("\n")[0] || "(empty)";
        return made("li", {}, made("b", { textContent: name }), made("del", { textContent: before }), made("ins", { textContent: after }));
    }

    // Ask what to change, of the chosen pictures or all; `filled` are values of the fields.
    async function change(kind, only = null, filled = {}) {
        const { made } = blocktrain;
        const { title, fields, foot } = KINDS[kind];
        const { state, many } = dataset;
        const set = state.set;
        if (!set) {
            dataset.say("There is no set yet: add pictures first.", "bad");
            return;
        }
        if (!(await dataset.savedFirst("the change would not see them."))) {
            return;
        }
        const keys = only || dataset.pictures().map((one) => one.picture);
        const told = made("p", { className: "blocktrain-dataset-told", textContent: " " });
        told.setAttribute("role", "status");
        const list = made("ul", { className: "blocktrain-dataset-examples" });
        let tried = null; // the change that would be made, and its operation
        let number = 0;

        async function attempt(form, go) {
            const mine = ++number;
            tried = null;
            go.disabled = true;
            const missing = fields.find(([name, , placeholder]) => placeholder !== undefined && name !== "replace" && !form.elements[name].value.trim());
            if (missing) {
                told.textContent = " ";
                list.replaceChildren();
                return;
            }
            try {
                const wanted = operation(kind, form);
                const { change: found } = await dataset.ask("preview", { set, operation: wanted, pictures: only });
                if (mine === number) {
                    tried = { operation: wanted, edits: found.edits };
                    told.className = "blocktrain-dataset-told";
                    told.textContent = `${many(found.edits.length, "caption")} of ${keys.length} would change.${found.problems.length ? ` ${found.problems[0]}` : ""}`;
                    list.replaceChildren(...found.edits.slice(0, EXAMPLES).map(example));
                    go.disabled = !found.edits.length;
                    go.textContent = found.edits.length ? `Change ${many(found.edits.length, "caption")}` : "Change";
                }
            } catch (error) {
                if (mine === number) {
                    told.className = "blocktrain-failure";
                    told.textContent = error.message;
                    list.replaceChildren();
                }
            }
        }

        dataset.dialog(only ? `${title}: ${many(only.length, "picture")}` : title, {
            body: [...fields.map((field) => fieldOf(field, filled[field[0]])), foot ? made("p", { className: "blocktrain-foot", textContent: foot }) : null, told, list],
            go: "Change",
            typed: attempt,
            run: () => {
                const stamps = Object.fromEntries(tried.edits.map((edit) => [edit.picture, edit.stamp]));
                return dataset.attempt(async () => {
                    const asked = { set, operation: tried.operation, pictures: only, stamps };
                    const { change: changed } = await dataset.ask("apply", asked);
                    await dataset.reload();
                    dataset.did(changed, `${title}: ${many(changed.edits.length, "caption")} changed.`);
                    return true;
                }, "Changing captions …");
            },
        });
    }

    // --- a dialog ---------------------------------------------------------------------------------------------------

    // Shows a dialog with `about` or a `body`; `typed` is called with the form and its button after a pause. The promise has
    // what `run` returns, or false where the dialog was closed. With `keep` it stays until `run` succeeds, and shows its error.
    function dialog(title, { about, body = [], go, typed, run, keep = false }) {
        const { made } = blocktrain;
        const sure = made("button", { type: "submit", className: "blocktrain-btn blocktrain-is-primary", textContent: go });
        const cancel = made("button", { type: "button", className: "blocktrain-btn", textContent: "Cancel" });
        const heading = made("h2", { textContent: title, id: "blocktrain_dataset_dialog" });
        const said = about ? made("p", { textContent: about }) : null;
        const buttons = made("div", { className: "blocktrain-dialog-b" }, cancel, sure);
        const wrong = made("p", { className: "blocktrain-failure", hidden: true });
        wrong.setAttribute("role", "alert");
        const form = made("form", { method: "dialog" }, heading, said, ...body.filter(Boolean), wrong, buttons);
        const popup = made("dialog", { className: "blocktrain-dialog" }, form);
        popup.setAttribute("aria-labelledby", heading.id);
        let timer = null;
        if (typed) {
            sure.disabled = true;
            form.addEventListener("input", () => {
                clearTimeout(timer);
                sure.disabled = true;
                timer = setTimeout(() => typed(form, sure), PAUSE);
            });
            typed(form, sure);
        }
        return new Promise((resolve) => {
            let answer = false;
            form.addEventListener("submit", async (event) => {
                event.preventDefault();
                if (sure.disabled) {
                    return;
                }
                if (!keep) {
                    answer = run();
                    popup.close();
                    return;
                }
                sure.disabled = true;
                try {
                    answer = await run();
                    popup.close();
                } catch (error) {
                    wrong.textContent = error.message;
                    wrong.hidden = false;
                    sure.disabled = false;
                }
            });
            cancel.addEventListener("click", () => popup.close());
            popup.addEventListener("close", () => resolve(answer));
            blocktrain.openDialog(popup);
        });
    }

    Object.assign(dataset, { captionItems, changeCaptions: change, dialog });
})();
