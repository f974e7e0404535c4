// The pictures of a set as images: by their address, or as data where the browser may not fetch them (`--api-auth` alone).
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const GATHER = 40; // milliseconds in which images are asked for together
    const MOST = 60; // of them at once, as in ui/dataset_handlers.py
    const inline = new Map(); // address -> data
    const wanted = new Map(); // address -> {set, picture, side, images}
    let fetched = true; // false from the first image on that only came as data
    let timer = null;

    function address(set, one, side) {
        const version = one.version ? `&v=${encodeURIComponent(one.version)}` : "";
        return `./blocktrain/v1/sets/${encodeURIComponent(set)}/thumbnail?picture=${encodeURIComponent(one.picture)}&side=${side}${version}`;
    }

    // Shows a picture in an <img>, its longer side 256 or 1024 pixels.
    function show(image, set, one, side) {
        const url = address(set, one, side);
        if (image.dataset.from === url) {
            return;
        }
        image.dataset.from = url;
        image.decoding = "async";
        if (inline.has(url)) {
            image.src = inline.get(url);
        } else if (fetched) {
            image.src = url;
            image.onerror = () => image.dataset.from === url && want(image, set, one, side, url);
        } else {
            want(image, set, one, side, url);
        }
    }

    function want(image, set, one, side, url) {
        image.onerror = null;
        image.removeAttribute("src");
        const known = wanted.get(url) || { set, side, picture: one.picture, images: [] };
        known.images.push(image);
        wanted.set(url, known);
        timer ??= setTimeout(ask, GATHER);
    }

    async function ask() {
        timer = null;
        const [[, first]] = wanted;
        const part = [...wanted].filter(([, one]) => one.set === first.set && one.side === first.side).slice(0, MOST);
        part.forEach(([url]) => wanted.delete(url));
        const pictures = part.map(([, one]) => one.picture);
        try {
            const { thumbnails } = await dataset.ask("thumbnails", { set: first.set, side: first.side, pictures });
            for (const [url, one] of part) {
                const data = thumbnails[one.picture];
                if (data) {
                    fetched = false;
                    inline.set(url, data);
                    one.images.filter((image) => image.dataset.from === url).forEach((image) => (image.src = data));
                }
            }
        } catch {
            // The set is gone: its list says so.
        }
        if (wanted.size) {
            timer ??= setTimeout(ask, GATHER);
        }
    }

    Object.assign(dataset, { show });
})();
