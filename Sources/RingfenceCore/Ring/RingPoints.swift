// SPDX-License-Identifier: Apache-2.0
//
// The points of a ring and their owners, laid out for one question: which point comes first at or after a position?
//
// The exact answer is in `points`, sorted, with `owners` beside it. Searching it by bisection costs a dozen cache
// misses and mispredicted branches, which is what the usual rings cost. So the circle is also cut into 2^bits equal
// blocks, of four to eight points on average, and what most questions need of a block is in one cache line of 64 bytes:
//
//     bytes  0..<32   16 numbers: the 16 bits of each point behind those that name the block, in order; unused ones
//                     0xffff. With their top bit flipped, because SSE2 compares signed numbers only.
//     bytes 32..<64   16 owners: of each point, and behind the last the owner of the next point clockwise, which stands
//                     in a later block. 0xffff, "look closer", in every place if the block has more than 15
//                     points.
//
// A position's block is its top bits. Its next 16 bits are compared with all sixteen numbers at once (`rf_block_lane`);
// the first that is not less names the owner. An equal one (about 1 position in 10 000) decides nothing: then, and
// where an owner is 0xffff, the sorted points are asked. So the answer is exact, and almost always costs one cache
// line.
//
// A value of this type never changes. A join makes a new one from the old: pieces of the sorted points are copied
// around the new ones, the blocks are copied whole, and only those near a changed point are written again. The storage
// is arrays, read through unsafe pointers: the compiler can see that nothing shared is mutable, and the hot path has no
// bounds checks.

import CXXHash

/// The points of a ring, sorted, with the blocks that find them.
struct RingPoints: Sendable {
    /// "Look closer", and the number that no member has.
    static let undecided: UInt16 = 0xFFFF

    /// The number of blocks is 2 to the power of this; 1 to 22.
    let bits: Int
    /// All points in order; equal ones in the order of their owners' ids.
    let points: [UInt64]
    /// The slot of each point's owner.
    let owners: [UInt16]
    /// The index of the first point in each block or behind it; one more than there are blocks.
    let starts: [UInt32]
    /// Eight words a block, from `blocksAt` on, which is where the storage meets a cache line.
    private let blocks: [UInt64]
    private let blocksAt: Int

    var count: Int { points.count }

    /// A block's number is a position shifted right by this; what tells its points apart, by 16 less.
    private let shift: UInt64
    private let suffixShift: UInt64

    /// What one member adds.
    struct Source {
        /// The hash of its id.
        var base: UInt64
        var indices: Range<Int>
        var slot: UInt16
    }

    /// The point of a member.
    struct Point {
        var value: UInt64
        var slot: UInt16
    }

    // MARK: Lookup

    /// The slot of the owner of `position`; `undecided` where its block cannot tell.
    @inline(__always)
    func ownerInBlock(at position: UInt64) -> UInt16 {
        blocks.withUnsafeBytes { words in
            let block =
                words.baseAddress.unsafelyUnwrapped
                + (blocksAt &+ Int(truncatingIfNeeded: position &>> shift) &* 64)
            let lane = rf_block_lane(block, suffix(of: position))
            guard lane >= 0 else { return Self.undecided }
            return (block + 32).load(fromByteOffset: Int(lane) &* 2, as: UInt16.self)
        }
    }

    /// The index of the first point at or after `position`, `count` if it is behind the last; -1 where its block cannot
    /// tell.
    @inline(__always)
    func indexInBlock(at position: UInt64) -> Int {
        let number = Int(truncatingIfNeeded: position &>> shift)
        let lane = blocks.withUnsafeBytes { words in
            let block = words.baseAddress.unsafelyUnwrapped + (blocksAt &+ number &* 64)
            let lane = rf_block_lane(block, suffix(of: position))
            guard lane >= 0, (block + 32).load(as: UInt16.self) != Self.undecided else { return -1 }
            return Int(lane)
        }
        return lane < 0 ? -1 : starts.withUnsafeBufferPointer { Int($0[number]) } &+ lane
    }

    @inline(__always)
    private func suffix(of position: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: position &>> suffixShift) }

    /// The index of the first point at or after `position`, round the circle. There must be one.
    func index(at position: UInt64) -> Int {
        let index = lowerBound(position)
        return index == count ? 0 : index
    }

    /// The index of the first point that is not less than `value`; `count` if there is none.
    func lowerBound(_ value: UInt64) -> Int {
        let block = Int(truncatingIfNeeded: value &>> shift)
        var low = Int(starts[block])
        var high = Int(starts[block + 1])
        while low < high {
            let middle = (low + high) / 2
            if points[middle] < value { low = middle + 1 } else { high = middle }
        }
        return low
    }

    // MARK: Making

    /// From nothing. Equal points are put in the order of `rank`, which is given by slot.
    init(_ sources: [Source], rank: [UInt16]) {
        let count = sources.reduce(0) { $0 + $1.indices.count }
        let bits = Self.bits(for: count)
        let shift = UInt64(64 - bits)
        var starts = [UInt32](repeating: 0, count: 1 << bits + 1)
        starts.withUnsafeMutableBufferPointer { starts in
            // First how many points each block has, one place further on; then sums, so that each block has its start.
            for source in sources {
                for index in source.indices {
                    starts[Int(truncatingIfNeeded: RingHash.point(index, base: source.base) &>> shift) &+ 1] &+= 1
                }
            }
            for block in 1..<starts.count { starts[block] &+= starts[block &- 1] }
        }
        var points = [UInt64](repeating: 0, count: count)
        var owners = [UInt16](repeating: 0, count: count)
        var ends = starts
        points.withUnsafeMutableBufferPointer { points in
            owners.withUnsafeMutableBufferPointer { owners in
                ends.withUnsafeMutableBufferPointer { ends in
                    rank.withUnsafeBufferPointer { rank in
                        for source in sources {
                            for index in source.indices {
                                let value = RingHash.point(index, base: source.base)
                                let block = Int(truncatingIfNeeded: value &>> shift)
                                // Into its place among those of its block that are here already: a few, so no sort
                                // pays.
                                var place = Int(ends[block])
                                let start = Int(starts[block])
                                ends[block] &+= 1
                                while place > start {
                                    let before = points[place &- 1]
                                    guard
                                        before > value
                                            || (before == value
                                                && rank[Int(owners[place &- 1])] > rank[Int(source.slot)])
                                    else { break }
                                    points[place] = before
                                    owners[place] = owners[place &- 1]
                                    place &-= 1
                                }
                                points[place] = value
                                owners[place] = source.slot
                            }
                        }
                    }
                }
            }
        }
        self.init(bits: bits, points: points, owners: owners, starts: starts)
    }

    /// From what is sorted.
    private init(bits: Int, points: [UInt64], owners: [UInt16], starts: [UInt32]) {
        self.bits = bits
        shift = UInt64(64 - bits)
        suffixShift = shift - 16
        self.points = points
        self.owners = owners
        self.starts = starts
        (blocks, blocksAt) = Self.makeBlocks(bits) { blocks in
            Self.write(0..<(1 << bits), of: blocks, bits: bits, points: points, owners: owners, starts: starts)
        }
    }

    /// From `old`, without the points at the indices `removed` and with `added` in front of those at `places`; all in
    /// order.
    init(_ old: RingPoints, removing removed: [Int], adding added: [Point], at places: [Int]) {
        let count = old.count - removed.count + added.count
        points = Self.spliced(old.points, count: count, removed, added.count, at: places) { added[$0].value }
        owners = Self.spliced(old.owners, count: count, removed, added.count, at: places) { added[$0].slot }
        let keeps = count <= 10 << old.bits && (old.bits == 1 || count >= 3 << old.bits)
        guard keeps else {
            bits = Self.bits(for: count)
            shift = UInt64(64 - bits)
            suffixShift = shift - 16
            starts = Self.starts(of: points, bits: bits)
            let (bits, points, owners, starts) = (bits, points, owners, starts)
            (blocks, blocksAt) = Self.makeBlocks(bits) { blocks in
                Self.write(0..<(1 << bits), of: blocks, bits: bits, points: points, owners: owners, starts: starts)
            }
            return
        }
        bits = old.bits
        shift = old.shift
        suffixShift = old.suffixShift
        // In which blocks the number of points has changed, and by how much.
        var changes: [(block: Int, by: Int)] = []
        changes.reserveCapacity(removed.count + added.count)
        var (r, a) = (0, 0)
        while r < removed.count || a < added.count {
            if a < added.count, r == removed.count || places[a] <= removed[r] {
                changes.append((Int(truncatingIfNeeded: added[a].value &>> shift), 1))
                a += 1
            } else {
                changes.append((Int(truncatingIfNeeded: old.points[removed[r]] &>> shift), -1))
                r += 1
            }
        }
        starts = Self.shifted(old.starts, by: changes)
        let (bits, points, owners, starts) = (bits, points, owners, starts)
        let (oldBlocks, oldAt) = (old.blocks, old.blocksAt)
        (blocks, blocksAt) = Self.makeBlocks(bits) { blocks in
            oldBlocks.withUnsafeBytes { from in
                blocks.copyMemory(from: from.baseAddress.unsafelyUnwrapped + oldAt, byteCount: 64 << bits)
            }
            let mask = 1 << bits - 1
            for (block, _) in changes {
                // This block, and those before it whose last entry is the owner of the next point: up to one with
                // points.
                var near = block
                repeat {
                    Self.write(
                        near..<(near + 1), of: blocks, bits: bits, points: points, owners: owners, starts: starts)
                    near = (near - 1) & mask
                } while near != block && starts[near] == starts[near + 1]
                if near != block {
                    Self.write(
                        near..<(near + 1), of: blocks, bits: bits, points: points, owners: owners, starts: starts)
                }
            }
        }
    }

    /// As many blocks as give them four to eight points each.
    private static func bits(for count: Int) -> Int {
        var bits = 1
        while 8 << bits < count { bits += 1 }
        return bits
    }

    private static func starts(of points: [UInt64], bits: Int) -> [UInt32] {
        var starts = [UInt32](repeating: 0, count: 1 << bits + 1)
        let shift = UInt64(64 - bits)
        starts.withUnsafeMutableBufferPointer { starts in
            for point in points { starts[Int(truncatingIfNeeded: point &>> shift) &+ 1] &+= 1 }
            for block in 1..<starts.count { starts[block] &+= starts[block &- 1] }
        }
        return starts
    }

    /// `old` without those at `removed`, and with new ones in front of those at `places`.
    private static func spliced<Element: BitwiseCopyable>(
        _ old: [Element], count: Int, _ removed: [Int], _ added: Int, at places: [Int], _ new: (Int) -> Element
    ) -> [Element] {
        if removed.isEmpty, added == 0 { return old }
        // There is one empty array for all threads, and making one writes its count into it.
        if count == 0 { return [] }
        return Array(unsafeUninitializedCapacity: count) { buffer, initialised in
            old.withUnsafeBufferPointer { old in
                var (read, written, r, a) = (0, 0, 0, 0)
                func copy(to end: Int) {
                    guard end > read else { return }
                    (buffer.baseAddress.unsafelyUnwrapped + written).initialize(
                        from: old.baseAddress.unsafelyUnwrapped + read, count: end - read)
                    written += end - read
                    read = end
                }
                while r < removed.count || a < added {
                    if a < added, r == removed.count || places[a] <= removed[r] {
                        copy(to: places[a])
                        buffer.initializeElement(at: written, to: new(a))
                        written += 1
                        a += 1
                    } else {
                        copy(to: removed[r])
                        read += 1
                        r += 1
                    }
                }
                copy(to: old.count)
                initialised = written
            }
        }
    }

    /// The starts of the blocks after `changes`, which are in the order of the blocks.
    private static func shifted(_ old: [UInt32], by changes: [(block: Int, by: Int)]) -> [UInt32] {
        Array(unsafeUninitializedCapacity: old.count) { new, initialised in
            old.withUnsafeBufferPointer { old in
                var at = 0
                var sum: UInt32 = 0
                for (block, by) in changes {
                    // A block's own start does not move, only those behind it.
                    while at <= block {
                        new.initializeElement(at: at, to: old[at] &+ sum)
                        at &+= 1
                    }
                    sum = UInt32(truncatingIfNeeded: Int(sum) &+ by)
                }
                while at < old.count {
                    new.initializeElement(at: at, to: old[at] &+ sum)
                    at &+= 1
                }
            }
            initialised = old.count
        }
    }

    /// Storage for 2^bits blocks that begins at a cache line, written by `body`.
    private static func makeBlocks(
        _ bits: Int, _ body: (UnsafeMutableRawPointer) -> Void
    ) -> (words: [UInt64], at: Int) {
        var at = 0
        let words = [UInt64](unsafeUninitializedCapacity: 8 << bits + 7) { buffer, initialised in
            let start = UnsafeMutableRawPointer(buffer.baseAddress.unsafelyUnwrapped)
            // Elements of an array do not move as long as nobody writes to it.
            at = (64 - Int(bitPattern: start) & 63) & 63
            for word in 0..<(at / 8) { buffer.initializeElement(at: word, to: 0) }
            body(start + at)
            for word in (at / 8 + 8 << bits)..<(8 << bits + 7) { buffer.initializeElement(at: word, to: 0) }
            initialised = 8 << bits + 7
        }
        return (words, at)
    }

    private static func write(
        _ range: Range<Int>, of blocks: UnsafeMutableRawPointer, bits: Int, points: [UInt64], owners: [UInt16],
        starts: [UInt32]
    ) {
        points.withUnsafeBufferPointer { points in
            owners.withUnsafeBufferPointer { owners in
                starts.withUnsafeBufferPointer { starts in
                    for number in range {
                        let first = Int(starts[number])
                        let end = Int(starts[number &+ 1])
                        let lanes = (blocks + number &* 64).assumingMemoryBound(to: UInt16.self)
                        let decides = end &- first <= 15 && points.count > 0
                        for lane in 0..<16 {
                            let index = first &+ lane
                            let isPoint = decides && index < end
                            let suffix =
                                isPoint ? UInt16(truncatingIfNeeded: points[index] &>> UInt64(48 &- bits)) : 0xFFFF
                            lanes[lane] = suffix ^ 0x8000
                            lanes[16 &+ lane] =
                                isPoint
                                ? owners[index]
                                : decides ? owners[end == points.count ? 0 : end] : Self.undecided
                        }
                    }
                }
            }
        }
    }
}
