// SPDX-License-Identifier: Apache-2.0
//
// The JSON reader against documents made at random, whole and spoilt, and a judge: Python's reader with our rules
// (judge.py). What is whole is read to the value it was made of. What is spoilt is read exactly if the judge reads it,
// to the same value, and is refused with an error that points into the document otherwise. Each document ends where its
// memory ends, so that one byte read beyond it is a crash.
//
// RINGFENCE_JSON_SEED and RINGFENCE_JSON_DOCUMENTS ask for others and for more.
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@Suite struct JSONRandomTests {
    private static let judge =
        "/" + #filePath.split(separator: "/").dropLast().joined(separator: "/") + "/judge.py"

    private static func number(_ variable: String) -> UInt64? {
        getenv(variable).flatMap { UInt64(String(cString: $0)) }
    }

    @Test(arguments: 0..<4 as Range<UInt64>)
    func `random documents are read as an independent reader reads them, or refused`(part: UInt64) async throws {
        let seed = (Self.number("RINGFENCE_JSON_SEED") ?? 1) &* 4 &+ part
        let count = Int(Self.number("RINGFENCE_JSON_DOCUMENTS") ?? 200_000) / 4
        let directory = try TemporaryDirectory()
        var run = JSONRun(seed: seed)
        var left = count
        var refused = 0
        while left > 0 {
            let batch = min(left, 50_000)
            left -= batch
            run.play(documents: batch)
            if let fault = run.fault {
                Issue.record("RINGFENCE_JSON_SEED, part \(part): \(fault)")
                return
            }
            let file = directory.path + "/documents"
            try run.records.withUnsafeBytes { bytes in
                let descriptor = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
                defer { close(descriptor) }
                var rest = bytes[...]
                while !rest.isEmpty {
                    let written = write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                    guard written > 0 else { throw TestSupportError("cannot write \(file)") }
                    rest = rest.dropFirst(written)
                }
            }
            run.records = []
            let lines = try await output(of: "python3", [Self.judge, file]).split(separator: "\n")
            let counts = (lines.last ?? "").split(separator: " ").compactMap { Int($0) }
            #expect(counts.count == 2 && counts[0] == batch, "\(lines)")
            refused += counts.last ?? 0
            for line in lines.dropLast() { Issue.record("seed \(seed): \(line)") }
        }
        // Neither all nor none.
        #expect(refused > count / 4 && refused < count * 3 / 4, "\(refused) of \(count) were refused")
    }
}

/// The documents of one seed, and what the reader makes of them.
private struct JSONRun {
    private var maker: RandomJSON
    /// For the judge.
    var records: [UInt8] = []
    /// What is wrong, without asking the judge.
    private(set) var fault: String?

    init(seed: UInt64) { maker = RandomJSON(seed: seed) }

    mutating func play(documents: Int) {
        let memory = GuardedMemory()
        for _ in 0..<documents where fault == nil {
            let depth = maker.below(4)
            let fields = maker.fields(depth: depth)
            maker.write(fields)
            if maker.chance(3) {
                let verdict = read(.any, depth, memory)
                if verdict != canonical(fields) { fault = "\(shown): read \(String(decoding: verdict, as: UTF8.self))" }
                record(.any, depth, verdict)
            } else {
                if !maker.chance(10) { maker.spoil() }
                let form = maker.pick(Form.allCases)
                let allowed = maker.below(4)
                record(form, allowed, read(form, allowed, memory))
            }
        }
    }

    enum Form: String, CaseIterable { case any, named, parts }
    private static let names = ["a", "K", "\u{E9}", ""]
    private static let hexNames = names.map { name in
        name.utf8.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }.joined(separator: ",")

    private var raw: Range<Int>?
    private var shown: String { String(decoding: maker.bytes, as: UTF8.self) }

    private mutating func record(_ form: Form, _ depth: Int, _ verdict: [UInt8]) {
        let bytes = maker.bytes
        let rawBytes = raw.map { bytes[$0] } ?? []
        records +=
            "\(form.rawValue) \(depth) \(Self.hexNames) \(bytes.count) \(verdict.count) \(rawBytes.count)\n".utf8
        records += bytes
        records += verdict
        records += rawBytes
    }

    /// The verdict of the reader.
    private mutating func read(_ form: Form, _ depth: Int, _ memory: GuardedMemory) -> [UInt8] {
        raw = nil
        let bytes = maker.bytes
        do throws(JSONError) {
            let object: JSONObject
            switch form {
            case .any:
                object = try memory.ending(with: bytes) { ending throws(JSONError) in
                    try JSONObject(ending, allowed: nil, depth: depth)
                }
            case .named:
                object = try memory.ending(with: bytes) { ending throws(JSONError) in
                    try JSONObject(ending, allowed: Self.names, depth: depth)
                }
            case .parts: (object, raw) = try JSONObject.reading(Self.names, raw: "raw", of: bytes)
            }
            checkNames(object)
            return canonical(object)
        } catch {
            if error.message.isEmpty || !(0...bytes.count).contains(error.offset) {
                fault = "\(shown): \(error.message) at \(error.offset)"
            }
            return [UInt8(ascii: "-")]
        }
    }

    /// A name finds the field that has it, to the byte.
    private mutating func checkNames(_ object: JSONObject) {
        for name in RandomJSON.names {
            let field = object.fields.first { $0.name.utf8.elementsEqual(name.utf8) }
            if object[name].map(canonical) != field.map({ canonical($0.value) }) {
                fault = "\(shown): \(name) finds another field"
            }
        }
    }
}

// MARK: - What judge.py compares

private func canonical(_ text: String) -> [UInt8] { Array("s\(text.utf8.count):".utf8) + text.utf8 }

private func canonical(_ object: JSONObject) -> [UInt8] {
    [UInt8(ascii: "{")] + object.fields.flatMap { canonical($0.name) + canonical($0.value) } + [UInt8(ascii: "}")]
}

private func canonical(_ value: JSONValue) -> [UInt8] {
    switch value {
    case .string(let text): canonical(text)
    case .integer(let number): Array("i\(number)".utf8)
    case .otherNumber: [UInt8(ascii: "o")]
    case .bool(let bool): [UInt8(ascii: bool ? "t" : "f")]
    case .null: [UInt8(ascii: "n")]
    case .strings(let texts): [UInt8(ascii: "[")] + texts.flatMap(canonical) + [UInt8(ascii: "]")]
    case .objects(let objects): [UInt8(ascii: "(")] + objects.flatMap(canonical) + [UInt8(ascii: ")")]
    case .object(let object): canonical(object)
    }
}

private func canonical(_ fields: [(String, MadeValue)]) -> [UInt8] {
    [UInt8(ascii: "{")] + fields.flatMap { canonical($0.0) + canonical($0.1) } + [UInt8(ascii: "}")]
}

private func canonical(_ value: MadeValue) -> [UInt8] {
    switch value {
    case .text(let text): canonical(text)
    case .number(let text):
        Array((Int64(text.hasSuffix(".0") ? String(text.dropLast(2)) : text).map { "i\($0)" } ?? "o").utf8)
    case .word(let word): Array(word.utf8.prefix(1))
    case .texts(let texts): [UInt8(ascii: "[")] + texts.flatMap(canonical) + [UInt8(ascii: "]")]
    case .objects(let objects): [UInt8(ascii: "(")] + objects.flatMap(canonical) + [UInt8(ascii: ")")]
    case .object(let fields): canonical(fields)
    }
}

/// Memory behind which there is none.
private final class GuardedMemory {
    private let start: UnsafeMutableRawPointer
    private let page = sysconf(Int32(_SC_PAGESIZE))
    private var size: Int { 32 * page }

    init() {
        let page = sysconf(Int32(_SC_PAGESIZE))
        guard let start = mmap(nil, 33 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            start != MAP_FAILED, mprotect(start + 32 * page, page, PROT_NONE) == 0
        else { fatalError("no memory") }
        self.start = start
    }

    deinit { munmap(start, size + page) }

    /// Calls `body` with a copy of `bytes` that ends where the memory ends.
    func ending<Result>(
        with bytes: [UInt8], _ body: (UnsafeBufferPointer<UInt8>) throws(JSONError) -> Result
    ) throws(JSONError) -> Result {
        precondition(bytes.count <= size)
        let copy = start + (size - bytes.count)
        bytes.withUnsafeBytes { copy.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(start), byteCount: $0.count) }
        return try body(UnsafeBufferPointer(start: copy.assumingMemoryBound(to: UInt8.self), count: bytes.count))
    }
}
