// The dialog "?": the keyboard shortcuts, and whether a run's end is notified. A script adds its own shortcuts to
// `blocktrain.shortcuts`, as pairs of the keys and what they do.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    blocktrain.shortcuts ||= [];
    blocktrain.shortcuts.unshift(
        ["Ctrl Enter", "Draw, analyse or start: the first button of the place"],
        ["Esc", "Cancel what is being drawn or analysed; close a menu"],
        ["← →", "In the header: to the place beside"],
        ["/", "Search the LoRAs"],
        ["Enter", "In Pictures: edit the caption; in a caption: save it and go to the next picture"],
        ["PageUp PageDown", "In a caption: to the picture before or after, without saving"],
        ["?", "This list"]
    );

    const visible = () => document.getElementById("blocktrain")?.offsetParent;
    const typing = (element) =>
        Boolean(element?.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable=true]"));

    function make(name, text, ...children) {
        const element = document.createElement(name);
        element.textContent = text;
        element.append(...children);
        return element;
    }

    function rows() {
        const list = make("dl", "");
        for (const [keys, text] of blocktrain.shortcuts) {
            list.append(make("dt", "", ...keys.split(" ").map((key) => make("kbd", key))), make("dd", text));
        }
        return list;
    }

    function notifying() {
        if (typeof Notification !== "function") {
            return "";
        }
        const words = {
            granted: "The end of a run is notified while another window is in front.",
            denied: "This browser does not allow notifications here.",
        };
        if (words[Notification.permission]) {
            return make("p", words[Notification.permission]);
        }
        const button = make("button", "Notify when a run ends");
        button.type = "button";
        button.className = "blocktrain-btn";
        button.addEventListener("click", async () => {
            await Notification.requestPermission();
            button.replaceWith(notifying());
        });
        return button;
    }

    function show() {
        document.getElementById("blocktrain_shortcuts")?.remove();
        const close = make("button", "Close");
        close.className = "blocktrain-btn";
        const form = make("form", "", close);
        form.method = "dialog";
        const heading = make("h2", "Keyboard");
        heading.id = "blocktrain_shortcuts_title";
        const model = make("p", document.querySelector("#blocktrain_model_line p")?.textContent || "");
        model.className = "blocktrain-line";
        const dialog = make("dialog", "", heading, rows(), model, notifying(), form);
        dialog.id = "blocktrain_shortcuts";
        dialog.className = "blocktrain-keys";
        dialog.setAttribute("aria-labelledby", heading.id);
        blocktrain.openDialog(dialog);
    }

    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#blocktrain [data-keys]")) {
            show();
        }
    });

    document.addEventListener("keydown", (event) => {
        if (!visible() || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) {
            return;
        }
        if (event.key === "Escape") {
            const cancel = { preview: "cancel", analyse: "analyse_cancel" }[blocktrain.place?.()];
            document.querySelector(`button#blocktrain_${cancel}:not(:disabled)`)?.click();
            return;
        }
        if (typing(event.target)) {
            return;
        }
        if (event.key === "?") {
            event.preventDefault();
            show();
        } else if (event.key === "/" && blocktrain.place?.() === "preview") {
            const search = document.querySelector("#blocktrain .blocktrain-picker [type=search]");
            if (search) {
                event.preventDefault();
                blocktrain.segment?.("preview", "loras");
                search.focus();
            }
        }
    });
})();
