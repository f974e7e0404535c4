// Shared by the scripts of the tab: clipboard, downloads, and setting up elements when they appear. The WebUI loads the
// files of this folder automatically, in any order; the standalone server inserts them into the page. Each file adds to
// `window.blocktrain`, and looks up what it needs from another file when it uses it, not when it is loaded.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    blocktrain.components ||= new Map();
    blocktrain.pageChanged ||= new Set();
    blocktrain.initialised ||= new WeakSet(); // elements already set up, even if these files are loaded twice

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

    // Downloads a file with this content, a text or a blob.
    function download(content, name) {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([content]));
        link.download = name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    // `components` maps a class to the function that sets up its elements, called once for each element that appears in
    // the page. The functions in `pageChanged` are called after every change of the page.
    function setUp() {
        blocktrain.pageChanged.forEach((call) => call());
        for (const [className, build] of blocktrain.components) {
            for (const element of document.getElementsByClassName(className)) {
                if (!blocktrain.initialised.has(element)) {
                    blocktrain.initialised.add(element);
                    build(element);
                }
            }
        }
    }

    Object.assign(blocktrain, { copy, download });
    new MutationObserver(setUp).observe(document, { childList: true, subtree: true });
    setTimeout(setUp); // when the other files have been read
})();
