// SPDX-License-Identifier: Apache-2.0
//
// The life of one connection, as a value: events in, actions out, no I/O, no clock, no dice of its own.
//
//      idle -> connecting -> handshaking -> (killing) -> admitting -> ready
//                  ^  \___________\___________\____________\___________|   any loss
//                  |___ backing off <_________________________________|            closed: from anywhere, for good
//
// The handshake is one write: AUTH, SELECT, CLIENT SETNAME, CLIENT ID, INFO, PING. PING is there because the others are
// answered even by a server that is loading, has lost its primary, or hangs in a script. INFO, because a server that
// comes back may be another one, or have other settings: callers that must know that know it before the first command
// is written.
//
// A server that refuses connections says so in one line and closes. That line comes as the answer to whatever we wrote
// first, so it is judged by its text and not by its place; and the first error is kept as the reason when the
// connection ends.
//
// Killing is what makes "the connection broke" mean something. Bytes of the old connection may still be on their way to
// the server, behind our back: a lock acquired by them after we gave it up would have no owner (seen in 106 of 200 lost
// acquires before this was done). So when the old connection ended with unanswered commands, the new one ends it by its
// client id before any command of a caller. Only at the same server process (`run_id`): ids start anew with each, and
// the same id there is a stranger.

// Admitting is where the owner of several connections judges this one (Locator.swift): whether all of them are at the
// same server. No command of a caller is written before. Whether the server is one on which anything may be locked is
// known from its INFO, and judged here.

/// What is known of the server at the other end of a connection.
package struct ConnectionInfo: Sendable, Equatable {
    /// The id of this connection at the server; nil when CLIENT ID was refused.
    package internal(set) var clientID: Int64?
    /// Names the server process; nil when INFO was refused.
    package internal(set) var runID: String?
    /// The server's clock at the handshake, in µs since 1970.
    package internal(set) var serverTimeMicroseconds: Int64?
    /// nil when INFO was refused.
    package internal(set) var server: ServerState?
    /// Counts the connections of one client, from 1.
    package internal(set) var generation = 0
}

struct ConnectionMachine {
    enum Step: Hashable { case authenticate, select, setName, identify, inform, ping, kill }

    enum State: Equatable {
        case idle, connecting, ready(since: Int64), backingOff, closed
        /// Waits for the answers to these steps, in order.
        case handshaking([Step])
        /// The server has answered all; the owner has not judged it yet.
        case admitting
    }

    enum Action: Equatable {
        case none
        case connect
        case write([[String]])
        /// Whether the connection may be used; `admitted` says yes.
        case admit(ConnectionInfo)
        case ready(ConnectionInfo, warnings: [String])
        /// Close the connection and report `lost`. `isRefusal`: waiting would not help a command, so fail those.
        case drop(RedisError, isRefusal: Bool)
    }

    /// A connection that may still have commands on their way.
    struct Suspect: Equatable {
        var clientID: Int64
        var runID: String
    }

    private let configuration: RedisConfiguration
    private(set) var state = State.idle
    private(set) var suspect: Suspect?
    private var info = ConnectionInfo()
    private var warnings: [String] = []
    private var warned: Set<Step> = []
    private var attempt = 0
    /// Where the transport leads.
    private var address: RedisConfiguration.Address
    /// The first error of this attempt to connect.
    private(set) var complaint: RedisServerError?
    /// Refuses us, unless the server turns out to be of a kind that explains it.
    private var misfit: RedisError?

    init(_ configuration: RedisConfiguration) {
        self.configuration = configuration
        address = configuration.address
    }

    var isReady: Bool { if case .ready = state { true } else { false } }

    /// Somebody needs the connection.
    mutating func start() -> Action {
        guard state == .idle else { return .none }
        state = .connecting
        return .connect
    }

    /// The wait after a loss is over.
    mutating func backoffElapsed() -> Action {
        guard state == .backingOff else { return .none }
        state = .connecting
        return .connect
    }

    /// The transport is there. `password`: one that was read for this attempt; `address`: where it leads, if that is
    /// not the configured one.
    mutating func opened(password: String? = nil, at address: RedisConfiguration.Address? = nil) -> Action {
        guard state == .connecting else { return .none }
        self.address = address ?? configuration.address
        info = ConnectionInfo(generation: info.generation)
        warnings = []
        complaint = nil
        misfit = nil
        var steps: [Step] = []
        var commands: [[String]] = []
        func add(_ step: Step, _ command: String...) {
            steps.append(step)
            commands.append(command)
        }
        if let password = password ?? configuration.password {
            if let username = configuration.username {
                add(.authenticate, "AUTH", username, password)
            } else {
                add(.authenticate, "AUTH", password)
            }
        }
        if configuration.database != 0 { add(.select, "SELECT", "\(configuration.database)") }
        if let name = configuration.clientName { add(.setName, "CLIENT", "SETNAME", name) }
        add(.identify, "CLIENT", "ID")
        add(.inform, "INFO")
        add(.ping, "PING")
        state = .handshaking(steps)
        return .write(commands)
    }

    /// One answer before the connection is ready.
    mutating func received(_ reply: RedisReply, now: Int64) -> Action {
        guard case .handshaking(var steps) = state, !steps.isEmpty else {
            let error = RedisError(.protocolViolation, effect: .none, "the server sent a reply nobody asked for")
            return .drop(error, isRefusal: false)
        }
        let step = steps.removeFirst()
        state = .handshaking(steps)
        if complaint == nil { complaint = reply.error }
        if let error = reply.error, let action = refused(step, error) { return action }
        switch step {
        case .identify: info.clientID = reply.error == nil ? reply.int : nil
        case .inform: reply.text.map { inform($0) }
        case .ping where reply.error == nil && reply != .status("PONG"):
            // Also how a TCP connection to itself is noticed: it echoes (a refused port in the ephemeral range can).
            let error = RedisError(.protocolViolation, effect: .none, "what answers at this address is not Redis")
            return .drop(error, isRefusal: false)
        case .authenticate, .select, .setName, .ping, .kill: break
        }
        guard steps.isEmpty else { return .none }
        return step == .kill ? judged() : shaken()
    }

    private mutating func refused(_ step: Step, _ error: RedisServerError) -> Action? {
        let failure = Self.refusal(error)
        if failure.isNotReady { return .drop(failure, isRefusal: false) }
        if error.prefix == .noAuthentication || error.prefix == .denied || step == .authenticate || step == .select {
            let refusal = RedisError(
                .server, effect: .none, failure.message, server: error, fault: failure.fault ?? .broken)
            // A Sentinel has no databases, and may want no password: say what it is rather than that.
            let mayBeAnotherKind = (step == .select || step == .authenticate) && error.prefix == .err
            guard mayBeAnotherKind else { return .drop(refusal, isRefusal: true) }
            if misfit == nil { misfit = refusal }
            return nil
        }
        let loss: String? =
            switch step {
            case .setName: "the connection has no name"
            case .identify, .inform: "commands of a broken connection cannot be stopped"
            case .kill: "commands of the broken connection may still run"
            case .authenticate, .select, .ping: nil
            }
        if let loss, warned.insert(step).inserted { warnings.append("\(error): \(loss)") }
        return nil
    }

    /// The server takes nobody in, or not us.
    static func refusal(_ error: RedisServerError) -> RedisError {
        let isPassword = [.noAuthentication, .wrongPassword].contains(error.prefix) || error.message.contains("AUTH")
        let hint = error.prefix == .noAuthentication ? " Give the password in the URL, or name a password file" : ""
        return RedisError(
            .connectFailed, effect: .none, "Redis refused the connection: \(error)\(hint)", server: error,
            fault: isPassword ? .password : nil)
    }

    private mutating func shaken() -> Action {
        guard let suspect, suspect.runID == info.runID else { return judged() }
        state = .handshaking([.kill])
        return .write([["CLIENT", "KILL", "ID", "\(suspect.clientID)"]])
    }

    private mutating func judged() -> Action {
        defer { misfit = nil }
        if let refusal = ServerDemand.refusal(of: info.server, at: address, configuration) {
            // A replica in the place of what was a primary may be one for a moment.
            return .drop(refusal, isRefusal: refusal.code == .wrongServer || info.generation == 0 && isAlone)
        }
        if let misfit { return .drop(misfit, isRefusal: true) }
        state = .admitting
        return .admit(info)
    }

    /// There is no other server that it could be.
    private var isAlone: Bool { if case .server = configuration.place { true } else { false } }

    /// The owner takes the connection.
    mutating func admitted(now: Int64) -> Action {
        guard state == .admitting else { return .none }
        suspect = nil
        info.generation += 1
        state = .ready(since: now)
        return .ready(info, warnings: warnings)
    }

    private mutating func inform(_ text: String) {
        var server = ServerState()
        ServerState.eachField(of: text) { name, value in
            switch name {
            case "run_id": info.runID = String(value)
            case "server_time_usec": info.serverTimeMicroseconds = Int64(value)
            default: server.take(name, value)
            }
        }
        info.server = server
    }

    /// The connection, or the attempt, failed. Returns how long to wait before the next; nil when closed.
    ///
    /// `hadUnanswered`: commands were written on it and not answered. `dice` is in 0..<1.
    mutating func lost(hadUnanswered: Bool, now: Int64, dice: Double) -> Duration? {
        guard state != .closed else { return nil }
        if case .ready(let since) = state {
            // A server that takes connections and drops them at once must not be asked a hundred times a second.
            if Duration.nanoseconds(now - since) >= configuration.backoff.cap { attempt = 0 }
            if hadUnanswered, let id = info.clientID, let runID = info.runID {
                suspect = Suspect(clientID: id, runID: runID)
            }
        }
        state = .backingOff
        defer { attempt += 1 }
        return configuration.backoff.delay(attempt: attempt, dice: dice)
    }

    mutating func close() { state = .closed }
}
