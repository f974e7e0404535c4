// Where the pictures of a set stand in the three views of Pictures: a list of boxes in pixels, of which the page draws those in
// sight (dataset_grid.js).
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const LEAST = [112, 150, 220]; // width of a cell, by size
    const HIGH = [56, 76, 112]; // height of a picture in its bucket, by size
    const CAPTION = 49; // below a cell's picture: two lines, and the border
    const ROW = 64; // of the list
    const HEAD = 25; // of a bucket
    const DROP = 150;

    function grid(list, width, size, narrow) {
        const gap = narrow ? 8 : 12;
        const columns = narrow ? 2 : Math.max(1, Math.floor((width + gap) / (LEAST[size - 1] + gap)));
        const side = (width - gap * (columns - 1)) / columns;
        const place = (index, high) => ({
            x: (index % columns) * (side + gap),
            y: Math.floor(index / columns) * (side + CAPTION + gap),
            w: side,
            h: high,
        });
        const boxes = list.map((one, index) => ({ one, ...place(index, side + CAPTION) }));
        boxes.push({ drop: true, ...place(list.length, Math.max(DROP, side + CAPTION)) });
        return boxes;
    }

    function rows(list, width) {
        const boxes = list.map((one, index) => ({ one, x: 0, y: index * ROW, w: width, h: ROW }));
        boxes.push({ drop: true, x: 0, y: list.length * ROW + 12, w: width, h: DROP });
        return boxes;
    }

    const times = (one) => (one.bucket ? one.resized[0] / one.width : 0);

    // The pictures of each bucket; those that are enlarged for it by themselves, and those that cannot be read at the end.
    function groups(list) {
        const found = new Map();
        for (const one of list) {
            const larger = times(one) > 1.05;
            const title = one.bucket ? one.bucket.join("×") : "No bucket";
            const key = `${title}${larger ? " larger" : ""}`;
            const group = found.get(key) || { title, larger, read: Boolean(one.bucket), pictures: [] };
            group.pictures.push(one);
            found.set(key, group);
        }
        return [...found.values()].sort((a, b) => b.read - a.read || a.larger - b.larger || b.pictures.length - a.pictures.length);
    }

    function about(group) {
        if (!group.read) {
            return "cannot be read";
        }
        const cut = Math.max(...group.pictures.map((one) => one.cut));
        const parts = [];
        if (group.larger) {
            parts.push(`enlarged up to ${Math.max(...group.pictures.map(times)).toFixed(1)}×`);
        }
        parts.push(cut >= 0.005 ? `up to ${Math.round(100 * cut)} % cut off` : "nothing cut off");
        return parts.join(" · ");
    }

    function buckets(list, width, size) {
        const [high, gap, boxes] = [HIGH[size - 1], 6, []];
        let y = 0;
        for (const group of groups(list)) {
            boxes.push({ head: group, about: about(group), x: 0, y, w: width, h: HEAD });
            y += HEAD;
            let x = 0;
            for (const one of group.pictures) {
                const [across, down] = one.bucket || [1, 1];
                const wide = Math.min(width, (high * across) / down);
                if (x && x + wide > width) {
                    x = 0;
                    y += high + gap;
                }
                boxes.push({ one, x, y, w: wide, h: high });
                x += wide + gap;
            }
            y += high + 18;
        }
        return boxes;
    }

    // The boxes of a view, and the height of all of them; of an empty set only where to drop pictures.
    function layout(view, list, width, size, narrow) {
        if (!list.length) {
            return { boxes: [{ drop: true, x: 0, y: 0, w: width, h: 2 * DROP }], height: 2 * DROP };
        }
        const boxes = view === "list" ? rows(list, width) : view === "buckets" ? buckets(list, width, size) : grid(list, width, size, narrow);
        return { boxes, height: boxes.reduce((most, box) => Math.max(most, box.y + box.h), 0) };
    }

    // The box that an arrow key leads to from another one; null at the edge.
    function beside(boxes, from, key) {
        const pictures = boxes.filter((box) => box.one);
        const at = pictures.indexOf(from);
        if (key === "ArrowLeft" || key === "ArrowRight") {
            return pictures[at + (key === "ArrowLeft" ? -1 : 1)] || null;
        }
        const down = key === "ArrowDown";
        const rest = pictures.filter((box) => (down ? box.y >= from.y + from.h : box.y + box.h <= from.y));
        const line = rest.reduce((best, box) => (down ? Math.min(best, box.y) : Math.max(best, box.y)), down ? Infinity : -Infinity);
        const middle = from.x + from.w / 2;
        const away = (box) => Math.abs(box.x + box.w / 2 - middle);
        return rest.filter((box) => box.y === line).sort((a, b) => away(a) - away(b))[0] || null;
    }

    Object.assign(dataset, { layout, beside });
})();
