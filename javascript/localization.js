// The page in another language. AUTOMATIC1111 and Forge replace whole texts and titles of added elements by those of
// `window.localization` (their `localizations/NAME.json` and the extensions'). Three things they leave out, and this does:
// names for screen readers, what changes in an element that is there, and texts with a number or a name in them. A key
// with `{}` stands for a number and one with `{name}` for anything; a translation repeats them, or says `{2}` for the
// second. The standalone page has no translator but this one (`--language`).
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const ATTRIBUTES = ["title", "placeholder", "aria-label", "aria-valuetext", "alt", "data-absent"];
    const OURS = "#blocktrain, [id^=blocktrain_], [class*=blocktrain-]";
    const HELD = "script, style, textarea"; // no text of the page
    let read = null; // the table that `patterns` was made of
    let patterns = [];
    const known = new Map();

    function table() {
        const words = window.localization || {};
        if (words !== read) {
            read = words;
            known.clear();
            patterns = Object.keys(words).filter((key) => words[key] && /\{(name)?\}/.test(key)).map((key) => {
                const parts = key.split(/(\{(?:name)?\})/).map((part) => part === "{}" ? "([\\d.,]+)" : part === "{name}"
                    ? "(.+?)" : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
                return [new RegExp(`^${parts.join("")}$`), words[key]];
            });
        }
        return words;
    }

    function byPattern(text) {
        for (const [pattern, translation] of patterns) {
            const found = pattern.exec(text);
            if (found) {
                let next = 1;
                return translation.replace(/\{(\d*|name)\}/g, (_, which) => localized(found[/\d/.test(which) ? which : next++]));
            }
        }
        const parts = text.split(" · "); // facts in a row
        return parts.length > 1 ? parts.map(localized).join(" · ") : text;
    }

    // The text in the page's language; a text without a translation, and one that is translated, stay.
    function localized(text) {
        const words = table();
        const plain = text.trim().replace(/\s+/g, " ");
        if (!plain || !Object.keys(words).length) {
            return text;
        }
        if (!known.has(plain)) {
            known.size > 2000 && known.clear();
            known.set(plain, Object.hasOwn(words, plain) && words[plain] || byPattern(plain));
        }
        const found = known.get(plain);
        return found === plain ? text : /^\s*/.exec(text)[0] + found + /\s*$/.exec(text)[0];
    }

    // Sets text only where it differs from what is shown, so that the page is not said to change, in any language.
    function setText(element, text) {
        const shown = localized(text);
        if (element && element.textContent !== shown) {
            element.textContent = shown;
        }
    }

    function translateText(node) {
        if (node.parentElement?.closest(HELD)) {
            return;
        }
        const shown = localized(node.data);
        if (node.data !== shown) {
            node.data = shown;
        }
    }

    function translateAttribute(element, name) {
        const text = element.getAttribute(name);
        const shown = text && localized(text);
        if (text !== shown) {
            element.setAttribute(name, shown);
        }
    }

    function translate(root) {
        if (root.nodeType === Node.TEXT_NODE) {
            translateText(root);
        } else if (root.nodeType === Node.ELEMENT_NODE) {
            const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
            while (texts.nextNode()) {
                translateText(texts.currentNode);
            }
            for (const name of ATTRIBUTES) {
                for (const element of [root, ...root.querySelectorAll(`[${name}]`)]) {
                    translateAttribute(element, name);
                }
            }
        }
    }

    const isOurs = (node) => (node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement)?.closest(OURS);

    function follow(changes) {
        for (const change of changes) {
            if (change.type === "attributes") {
                isOurs(change.target) && translateAttribute(change.target, change.attributeName);
            } else if (change.type === "characterData") {
                isOurs(change.target) && translateText(change.target);
            } else {
                for (const node of change.addedNodes) {
                    if (isOurs(node)) {
                        translate(node);
                    } else if (node.nodeType === Node.ELEMENT_NODE) {
                        node.querySelectorAll(OURS).forEach((element) => isOurs(element.parentElement) || translate(element));
                    }
                }
            }
        }
    }

    Object.assign(blocktrain, { localized, setText });

    function begin() {
        if (!Object.keys(table()).length || blocktrain.translating) {
            return;
        }
        blocktrain.translating = true;
        const what = { childList: true, characterData: true, subtree: true, attributeFilter: ATTRIBUTES };
        new MutationObserver(follow).observe(document.body, what);
        document.querySelectorAll(OURS).forEach((element) => isOurs(element.parentElement) || translate(element));
    }

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", begin);
    } else {
        setTimeout(begin);
    }
})();
