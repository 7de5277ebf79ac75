// SPDX-License-Identifier: Apache-2.0
//
// Bytes in, replies out: hiredis' reader with object functions that build Swift values at once, so no tree of C replies
// is allocated, walked and freed.
//
// The reader announces pieces depth first and in order, so a stack of unfinished arrays is all the state there is. It
// copies what it is fed, hence pieces of at most 64 KiB. It trusts the server's lengths, hence our limits on the bytes
// and elements of one reply. A reader that has seen an error stays broken: the next byte could be anywhere inside a
// reply, and guessing would hand one caller the answer of another. It is not thread-safe: event loop only.
import CHiredis

/// Parses RESP2.
final class ReplyReader {
    /// Beyond these a server is broken or hostile.
    struct Limits {
        /// Bytes of one reply, everything nested in it included.
        var bytes = 64 << 20
        /// Elements of one reply, at all levels together.
        var elements = 1 << 20
        /// hiredis 0.14 allows 7 levels and 1.x 9: refuse the same on both.
        var depth = 7
    }

    private struct Unfinished {
        var elements: [RedisReply]
        var missing: Int
    }

    private static let pieceLength = 65_536

    private var reader: OpaquePointer?
    private let limits: Limits
    private var stack: [Unfinished] = []
    private var bytes = 0
    private var elements = 0
    /// Complete replies, in order, until the owner takes them away.
    var replies: [RedisReply] = []
    /// Why nothing more can be read; nil while all is well.
    private(set) var failure: String?
    /// A top-level READONLY, MOVED or CLUSTERDOWN was seen: the owner may want another server.
    var redirection: RedisServerError?

    init(limits: Limits = Limits()) {
        self.limits = limits
        // SAFETY: the reader is freed in deinit, so no event can come after self is gone.
        reader = rf_reader_create(&Self.events, Unmanaged.passUnretained(self).toOpaque())
        if reader == nil { failure = "out of memory" }
    }

    deinit { rf_reader_free(reader) }

    /// Parses all complete replies in `input` and what was kept before; false when broken.
    func feed(_ input: UnsafeRawBufferPointer) -> Bool {
        var rest = input[...]
        while failure == nil, !rest.isEmpty {
            let piece = UnsafeRawBufferPointer(rebasing: rest.prefix(Self.pieceLength))
            rest = rest.dropFirst(piece.count)
            guard rf_reader_feed(reader, piece.baseAddress, piece.count) == 1 else {
                fail()
                break
            }
            parse()
            if failure == nil, rf_reader_pending(reader) > limits.bytes + 65_536 {
                failure = "a reply of more than \(limits.bytes) bytes"
            }
        }
        return failure == nil
    }

    private func parse() {
        while true {
            switch rf_reader_next(reader) {
            case RF_NEXT_REPLY: continue
            case RF_NEXT_MORE: return
            default: return fail()
            }
        }
    }

    private func fail() {
        if failure == nil { failure = String(cString: rf_reader_error(reader)) }
        stack = []
    }

    // MARK: the pieces of a reply

    private func text(_ kind: rf_leaf, _ start: UnsafePointer<CChar>?, _ length: Int) -> Bool {
        bytes += length
        guard bytes <= limits.bytes else {
            failure = "a reply of more than \(limits.bytes) bytes"
            return false
        }
        let text = UnsafeRawBufferPointer(start: start, count: length)
        switch kind {
        case RF_LEAF_STRING: return add(.string([UInt8](text)))
        case RF_LEAF_STATUS:
            return add(length == 2 && text[0] == 79 && text[1] == 75 ? .ok : .status(Self.string(text)))
        default:
            let error = RedisServerError(message: Self.string(text))
            if stack.isEmpty, redirection == nil, [.readOnly, .moved, .clusterDown].contains(error.prefix) {
                redirection = error
            }
            return add(.error(error))
        }
    }

    private func array(_ count: Int) -> Bool {
        if count == 0 { return add(.array([])) }
        elements += count
        guard elements <= limits.elements else {
            failure = "a reply of more than \(limits.elements) elements"
            return false
        }
        guard stack.count < limits.depth else {
            failure = "a reply nested deeper than \(limits.depth)"
            return false
        }
        var unfinished = Unfinished(elements: [], missing: count)
        unfinished.elements.reserveCapacity(min(count, 1024))
        stack.append(unfinished)
        return true
    }

    private func add(_ reply: RedisReply) -> Bool {
        var reply = reply
        while let top = stack.indices.last {
            stack[top].elements.append(reply)
            stack[top].missing -= 1
            if stack[top].missing > 0 { return true }
            reply = .array(stack.removeLast().elements)
        }
        replies.append(reply)
        (bytes, elements) = (0, 0)
        return true
    }

    private static func string(_ bytes: UnsafeRawBufferPointer) -> String { String(decoding: bytes, as: UTF8.self) }

    // SAFETY: constant after its initialisation; C copies it.
    nonisolated(unsafe) private static var events = rf_reader_events(
        text: { owner, kind, start, length in reader(owner).text(kind, start, length) ? 1 : 0 },
        integer: { owner, value in reader(owner).add(.integer(value)) ? 1 : 0 },
        null: { owner in reader(owner).add(.null) ? 1 : 0 },
        array: { owner, count in reader(owner).array(count) ? 1 : 0 })

    private static func reader(_ owner: UnsafeMutableRawPointer?) -> ReplyReader {
        // SAFETY: `owner` is the pointer given at creation; the reader calls only inside our own feed, so self is
        // alive.
        Unmanaged<ReplyReader>.fromOpaque(owner!).takeUnretainedValue()
    }
}
