//! Makes unreachable nodes reachable: with inner products, short keys are never a best neighbour. No distance is
//! computed.

/// Rows of level 0 in the making: `width` places for each node, `len` of them used.
pub(super) struct Rows {
    pub(super) links: Vec<u32>,
    pub(super) width: usize,
    pub(super) len: Vec<u32>,
}

impl Rows {
    pub(super) fn row(&self, node: usize) -> &[u32] {
        &self.links[node * self.width..][..self.len[node] as usize]
    }

    fn push(&mut self, node: usize, link: u32) {
        self.links[node * self.width + self.len[node] as usize] = link;
        self.len[node] += 1;
    }
}

/// Makes every node reachable from `entry_point`, as far as its own neighbours allow.
pub(super) fn repair(rows: &mut Rows, entry_point: u32) {
    // What loses its place may become unreachable in turn; in practice the second round finds nothing.
    for _ in 0..4 {
        if adopt(rows, entry_point) == 0 {
            break;
        }
    }
}

/// What cannot be reached takes, in the row of one of its own neighbours, a free place or that of the farthest node that
/// others link to as well. Returns how many nodes that were.
fn adopt(rows: &mut Rows, entry_point: u32) -> usize {
    let nodes = rows.len.len();
    let mut reached = vec![false; nodes];
    reach(rows, entry_point as usize, &mut reached);
    if reached.iter().all(|reached| *reached) {
        return 0;
    }
    let mut linked_by = vec![0_u32; nodes];
    for node in 0..nodes {
        for other in rows.row(node) {
            linked_by[*other as usize] += 1;
        }
    }
    let mut adopted = 0;
    for node in 0..nodes {
        if reached[node] {
            continue;
        }
        let neighbours: Vec<usize> = rows.row(node).iter().map(|other| *other as usize).collect();
        for parent in neighbours.into_iter().filter(|parent| reached[*parent]) {
            if (rows.len[parent] as usize) < rows.width {
                rows.push(parent, node as u32);
            } else {
                let spare = rows.row(parent).iter().rposition(|other| linked_by[*other as usize] > 1);
                let Some(spare) = spare else { continue };
                let start = parent * rows.width;
                linked_by[rows.links[start + spare] as usize] -= 1;
                // Full rows are nearly sorted by distance: the newcomer goes last.
                rows.links[start + spare..start + rows.width].rotate_left(1);
                rows.links[start + rows.width - 1] = node as u32;
            }
            linked_by[node] += 1;
            adopted += 1;
            reach(rows, node, &mut reached);
            break;
        }
    }
    adopted
}

fn reach(rows: &Rows, from: usize, reached: &mut [bool]) {
    let mut queue = vec![from];
    while let Some(node) = queue.pop() {
        if !std::mem::replace(&mut reached[node], true) {
            queue.extend(rows.row(node).iter().map(|other| *other as usize).filter(|other| !reached[*other]));
        }
    }
}
