// SPDX-License-Identifier: Apache-2.0
//
// Standard output, with every write looked at.
//
// What a command prints is its answer, and a script acts on the exit code: 0 must mean that all of it was written.
// print() does not tell when the disk is full, or when nobody reads any more. So no command prints with it; put()
// throws instead, and the program looks once more at its end. A failure is kept: after it nothing is written, lest a
// hole be followed by more. Code that cannot throw where it prints may drop the error, for it comes up again at the
// end, and ends what waits (untilInterrupted).
//
// A reader that closes the pipe (`| head`) has seen enough: then the command ends silently, with the code of SIGPIPE.
import RingfenceOperations
import RingfencePlatform
import Synchronization

/// Standard output.
package enum Output {
    /// It could not be written.
    package struct Failure: Error, Hashable {
        package var number: Int32
        /// Nobody reads it any more.
        package var isClosed: Bool { number == EPIPE }
    }

    private struct State {
        var bytes: [UInt8] = []
        var failure: Failure?
    }
    private static let state = Mutex(State())
    private static let room = 65_536

    /// Writes what was put so far.
    package static func flush() throws { try state.withLock { try flush(&$0) } }

    private static func flush(_ state: inout State) throws {
        if let failure = state.failure { throw failure }
        guard !state.bytes.isEmpty else { return }
        let failure = write(state.bytes, to: 1)
        state.bytes.removeAll(keepingCapacity: true)
        state.failure = failure
        if let failure { throw failure }
    }

    fileprivate static func put(_ text: String, _ terminator: String) throws {
        try state.withLock { state in
            if let failure = state.failure { throw failure }
            state.bytes += text.utf8
            state.bytes += terminator.utf8
            if state.bytes.count >= room { try flush(&state) }
        }
    }

    /// Whether something could not be written, or nothing more can be because nobody reads.
    package static var ending: Failure? {
        if let failure = state.withLock({ $0.failure }) { return failure }
        var waiting = pollfd(fd: 1, events: 0, revents: 0)
        guard poll(&waiting, 1, 0) == 1, waiting.revents & Int16(POLLERR | POLLHUP) != 0 else { return nil }
        return Failure(number: EPIPE)
    }

    /// Writes all of it, at once.
    package static func write(_ bytes: [UInt8], to descriptor: Int32) -> Failure? {
        var bytes = bytes[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { systemWrite(descriptor, $0.baseAddress, $0.count) }
            if count > 0 { bytes = bytes.dropFirst(count) }
            guard count < 0 else { continue }
            switch errno {
            case EINTR: continue
            case EAGAIN:
                // Somebody else made the pipe or terminal that we share non-blocking.
                var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = poll(&waiting, 1, -1)
            default: return Failure(number: errno)
            }
        }
        return nil
    }

    private static func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
        RingfencePlatform.write(descriptor, bytes, count)
    }

    /// The width of the terminal that standard output is; nil if it is none, or does not say.
    package static var columns: Int? { size.flatMap { $0.ws_col > 0 ? Int($0.ws_col) : nil } }

    /// Whether standard output is a terminal on which the cursor can be moved.
    package static var isDrawable: Bool {
        guard columns != nil, let terminal = Environment.values["TERM"] else { return false }
        return !terminal.isEmpty && terminal != "dumb"
    }

    /// The height of the terminal that standard output is; nil if it is none, or does not say.
    package static var rows: Int? { size.flatMap { $0.ws_row > 0 ? Int($0.ws_row) : nil } }

    private static var size: winsize? {
        var size = winsize()
        guard isProgram.load(ordering: .relaxed), isatty(1) == 1, ioctl(1, UInt(TIOCGWINSZ), &size) == 0 else {
            return nil
        }
        return size
    }

    /// Else it is a test, whose terminal is nobody's matter.
    fileprivate static let isProgram = Atomic<Bool>(false)

    /// Takes the places of standard descriptors that are closed: the next file or socket would get them, and then what
    /// is printed. What takes them cannot be written.
    package static func guardDescriptors() {
        isProgram.store(true, ordering: .relaxed)
        for descriptor: Int32 in 0...2 where fcntl(descriptor, F_GETFD) < 0 {
            _ = open("/dev/null", O_RDONLY)
        }
    }
}

/// Puts a line, or what `terminator` makes of it, on standard output, no later than at the end of the command.
/// - Throws: ``Output/Failure``.
package func put(_ text: String, terminator: String = "\n") throws { try Output.put(text, terminator) }

@available(*, unavailable, message: "does not say when it could not write: use put()")
package func print(_ items: Any..., separator: String = " ", terminator: String = "\n") {}

/// Tells the person at the terminal what is waited for; in a file or a log it would be noise.
package func note(_ line: String) {
    if isatty(2) == 1 { say("ringfence: " + line) }
}

/// Writes a line to standard error.
/// - Returns: whether it was written.
@discardableResult
package func say(_ line: String) -> Bool { Output.write(Array((line + "\n").utf8), to: 2) == nil }
