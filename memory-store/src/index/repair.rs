//! Making the most of level 0 once `hnsw_rs` is done with it.
//!
//! `hnsw_rs` often leaves room in the rows of level 0, and with inner products some nodes that nobody links to: short
//! keys are nobody's best neighbour. Two passes, neither of which computes a distance:
//!
//! 1. where `a` links to `b` and the row of `b` has room, `b` links back;
//! 2. what cannot be reached from the entry point takes, in the row of one of its own neighbours, the place of the
//!    farthest node that others link to as well.

/// Rows of level 0 in the making: `width` places for each node, `len` of them used.
struct Rows<'a> {
    links: &'a mut [u16],
    width: usize,
    len: Vec<usize>,
}

impl Rows<'_> {
    fn row(&self, node: usize) -> &[u16] {
        &self.links[node * self.width..][..self.len[node]]
    }

    fn push(&mut self, node: usize, link: u16) {
        self.links[node * self.width + self.len[node]] = link;
        self.len[node] += 1;
    }
}

/// Repairs `links`, `[nodes, width]`, whose rows end where they name their own node.
pub(super) fn repair(links: &mut [u16], width: usize, entry_point: u32) {
    let len = links
        .chunks_exact(width)
        .enumerate()
        .map(|(node, row)| row.iter().position(|link| usize::from(*link) == node).unwrap_or(width));
    let len = len.collect();
    let mut rows = Rows { links, width, len };
    link_back(&mut rows);
    // What loses its place may become unreachable in turn; in practice the second round finds nothing.
    for _ in 0..4 {
        if adopt(&mut rows, entry_point) == 0 {
            break;
        }
    }
}

fn link_back(rows: &mut Rows<'_>) {
    for place in 0..rows.width {
        for node in 0..rows.len.len() {
            let Some(other) = rows.row(node).get(place).map(|other| usize::from(*other)) else { continue };
            if rows.len[other] < rows.width && !rows.row(other).contains(&(node as u16)) {
                rows.push(other, node as u16);
            }
        }
    }
}

/// Links what is unreachable; returns how many nodes that were.
fn adopt(rows: &mut Rows<'_>, entry_point: u32) -> usize {
    let nodes = rows.len.len();
    let mut reached = vec![false; nodes];
    reach(rows, entry_point as usize, &mut reached);
    let mut linked_by = vec![0_u32; nodes];
    for node in 0..nodes {
        for other in rows.row(node) {
            linked_by[usize::from(*other)] += 1;
        }
    }
    let mut adopted = 0;
    for node in 0..nodes {
        if reached[node] {
            continue;
        }
        let neighbours: Vec<usize> = rows.row(node).iter().map(|other| usize::from(*other)).collect();
        for parent in neighbours.into_iter().filter(|parent| reached[*parent]) {
            let start = parent * rows.width;
            let spare = rows.row(parent).iter().rposition(|other| linked_by[usize::from(*other)] > 1);
            let Some(spare) = spare else { continue };
            linked_by[usize::from(rows.links[start + spare])] -= 1;
            // Rows are sorted by distance: the newcomer goes last.
            rows.links[start + spare..start + rows.len[parent]].rotate_left(1);
            rows.links[start + rows.len[parent] - 1] = node as u16;
            linked_by[node] += 1;
            adopted += 1;
            reach(rows, node, &mut reached);
            break;
        }
    }
    adopted
}

fn reach(rows: &Rows<'_>, from: usize, reached: &mut [bool]) {
    let mut queue = vec![from];
    while let Some(node) = queue.pop() {
        if !std::mem::replace(&mut reached[node], true) {
            queue.extend(rows.row(node).iter().map(|other| usize::from(*other)).filter(|other| !reached[*other]));
        }
    }
}
