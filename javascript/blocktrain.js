// What the tab does in the page. The WebUI loads the files of this folder by itself, in any order; the standalone
// server puts them into the page. Each adds to `window.blocktrain`; what a file needs of another one it asks for when
// it is used, not when it is loaded.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    blocktrain.components ||= new Map();
    blocktrain.pageChanged ||= new Set();
    blocktrain.alive ||= new WeakSet(); // what has been brought to life, also where a page reads these files twice

    // Puts text on the clipboard; answers whether it is there. Without a secure context (a WebUI reached by http in a
    // network) there is no `navigator.clipboard`, but what is selected can be copied.
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

    // Gives the person a file with this content, a text or a blob.
    function download(content, name) {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([content]));
        link.download = name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    // `components` says by class what brings an element to life; each is given to it once, whenever the server puts
    // it into the page. `pageChanged` are functions that are called whenever something was put into the page.
    function bringToLife() {
        blocktrain.pageChanged.forEach((call) => call());
        for (const [className, build] of blocktrain.components) {
            for (const element of document.getElementsByClassName(className)) {
                if (!blocktrain.alive.has(element)) {
                    blocktrain.alive.add(element);
                    build(element);
                }
            }
        }
    }

    Object.assign(blocktrain, { copy, download });
    new MutationObserver(bringToLife).observe(document, { childList: true, subtree: true });
    setTimeout(bringToLife); // when the other files have been read
})();
