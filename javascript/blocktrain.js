// Shared by the scripts of the tab: clipboard, downloads, questions, and setting up elements when they appear. The WebUI loads the
// files of this folder automatically, in any order; the standalone server inserts them into the page. Each file adds to
// `window.blocktrain`, and looks up what it needs from another file when it uses it, not when it is loaded. Where the page
// was there before the scripts, `window.blocktrain` is at first the element of this id, though no property of its own.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    blocktrain.components ||= new Map();
    blocktrain.pageChanged ||= new Set();
    blocktrain.pageSettled ||= new Set();
    blocktrain.initialised ||= new WeakSet(); // elements already set up, even if these files are loaded twice
    const SETTLING = 100; // ms
    const ASK_AGAIN = 1500; // ms
    let settling = 0; // the timer of what is called then

    // Copies text to the clipboard; returns whether that worked. Without a secure context (such as a WebUI reached by
    // plain http) there is no `navigator.clipboard`, but a selection can still be copied.
    async function copy(text) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch {
            const box = document.createElement("textarea");
            box.value = text;
            box.style.position = "fixed";
            document.body.append(box);
            const before = document.activeElement;
            box.select();
            const copied = document.execCommand("copy");
            box.remove();
            before?.focus();
            return copied;
        }
    }

    // An element with properties and children; a child that is null is left out.
    function made(tag, properties = {}, ...children) {
        const element = Object.assign(document.createElement(tag), properties);
        element.append(...children.filter((child) => child !== null));
        return element;
    }

    // An element of a drawing, with attributes and children.
    function drawn(tag, attributes, ...children) {
        const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
        Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
        element.append(...children);
        return element;
    }

    // A small U of weights in the order of the forward pass, BASE left out: blocks as bright as their weights.
    function tinyU(weights) {
        const [width, block, tall, gap, inset] = [48, 5, 4, 1, 1.5];
        const side = (weights.length - 1) / 2;
        const levels = Math.ceil(side / 3);
        const rects = weights.map((weight, index) => {
            const outgoing = index > side;
            const at = index === side ? null : outgoing ? weights.length - 1 - index : index;
            const level = at === null ? levels : Math.floor(at / 3);
            let x = (width - block) / 2;
            if (at !== null) {
                x = inset * level + (at % 3) * (block + gap);
                x = outgoing ? width - block - x : x;
            }
            const rect = drawn("rect", { x, y: level * (tall + gap), width: block, height: tall, rx: 0.8 });
            rect.style.setProperty("--blocktrain-w", Math.min(1, Math.abs(weight)));
            rect.classList.toggle("blocktrain-n", weight < 0);
            return rect;
        });
        const height = (levels + 1) * (tall + gap) - gap;
        return drawn("svg", { class: "blocktrain-ug", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...rects);
    }

    // Shows a dialog over the page; a click beside it closes it, and what is closed is removed.
    function openDialog(dialog) {
        dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
        dialog.addEventListener("close", () => dialog.remove());
        document.getElementById("blocktrain").append(dialog);
        dialog.showModal();
    }

    // Downloads a file with this content, a text or a blob.
    function download(content, name) {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([content]));
        link.download = name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    // Sends a question until the function that is returned is called: gradio drops an event while another one is handled.
    // More and more seldom, since an answer may take long; at once when the server is back, which has lost the question.
    function untilAnswered(send) {
        let timer = null;
        const again = (pause) => {
            clearTimeout(timer);
            send();
            timer = setTimeout(again, pause, 2 * pause);
        };
        const back = () => again(ASK_AGAIN);
        document.addEventListener("blocktrain:back", back);
        back();
        return () => {
            clearTimeout(timer);
            document.removeEventListener("blocktrain:back", back);
        };
    }

    // `components` maps a class to the function that sets up its elements, called once for each element that appears in
    // the page. The functions in `pageChanged` are called after every change of the page; those in `pageSettled`, which go
    // through the whole of it, at most every 100 ms, since gradio changes it hundreds of times while it builds it.
    function setUp() {
        blocktrain.pageChanged.forEach((call) => call());
        settling ||= setTimeout(() => {
            settling = 0;
            blocktrain.pageSettled.forEach((call) => call());
        }, SETTLING);
        for (const [className, build] of blocktrain.components) {
            for (const element of document.getElementsByClassName(className)) {
                if (!blocktrain.initialised.has(element)) {
                    blocktrain.initialised.add(element);
                    build(element);
                }
            }
        }
    }

    Object.assign(blocktrain, { copy, download, drawn, made, openDialog, tinyU, untilAnswered });

    // What is set up uses all files: not before they have been read, which a WebUI does one after the other.
    function begin() {
        new MutationObserver(setUp).observe(document, { childList: true, subtree: true });
        setUp();
    }

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", begin);
    } else {
        setTimeout(begin);
    }
})();
