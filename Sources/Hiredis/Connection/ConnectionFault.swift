// SPDX-License-Identifier: Apache-2.0
//
// Why there is no connection, in words.
//
// SwiftNIO and BoringSSL tell how their errors are made: nested values, names of cases, the path of a source file. The
// person who reads one has other questions: which address, what is wrong with it, what to do. So every error of a
// connection becomes a fault, one of a few kinds, and a sentence that names the address. Nothing of the error itself is
// shown but the system's own words for an errno and BoringSSL's name of a reason.
import NIOCore
import NIOPosix
import NIOSSL
import RingfencePlatform

/// What keeps a connection from being made.
package enum ConnectionFault: Sendable, Hashable {
    /// Nobody listens there.
    case refused
    /// There is no such socket.
    case noSocket
    /// This user may not use the socket.
    case forbidden
    case nameNotFound
    case noRoute
    /// No answer in time.
    case silent
    /// We speak TLS, and the server does not.
    case plaintext
    /// The server speaks TLS, and we do not.
    case speaksTLS
    /// No authority that we trust has signed the certificate.
    case untrusted
    case expired
    case notYetValid
    /// The certificate is another server's.
    case wrongName
    /// The server asks for a certificate of ours, or does not take it.
    case clientCertificate
    /// The password is wrong or missing.
    case password
    /// It takes no writes, and was none of ours before.
    case replica
    /// It holds no data.
    case sentinel
    /// It is asked for one server, and has only some of the slots.
    case clusterNode
    /// It is asked for as a node of a Cluster.
    case notCluster
    /// There is no primary now, or it is not known which server it is.
    case noPrimary
    /// A Sentinel names another primary than a moment ago.
    case sentinelChanges
    /// Sentinels name two primaries under one epoch.
    case sentinelsDisagree
    /// Fewer than a majority of the Sentinels answer, and one is required.
    case noMajority
    /// The Sentinels know nothing by that name.
    case unknownPrimary
    /// It is asked as a Sentinel.
    case notSentinel
    /// It ended before it began, or something else.
    case broken
}

extension RedisConfiguration.Address: CustomStringConvertible {
    /// `host:port`, or the path of the socket.
    package var description: String {
        switch self {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): path
        }
    }
}

/// Puts errors of a connection to one address into words.
struct ConnectionWords {
    let address: RedisConfiguration.Address

    /// The failure of an attempt to connect.
    func failure(_ error: any Error, certificate: NIOSSLCertificate? = nil) -> RedisError {
        if let error = error as? RedisError { return error }
        let (fault, text) = words(error, certificate)
        return RedisError(.connectFailed, effect: .none, text, fault: fault)
    }

    /// How a connection that was ready ended.
    func loss(_ error: (any Error)?) -> RedisError {
        let text =
            switch error {
            case nil, is NIOSSLError: "\(address) closed the connection"
            case let error as RedisError: error.message
            case let error?: words(error, nil).text
            }
        return RedisError(.connectionLost, effect: .unknown, text)
    }

    /// - Parameter isSecure: it took the connection, and then said nothing to our TLS.
    func silent(_ limit: Duration, isSecure: Bool = false) -> RedisError {
        let hint = isSecure ? ": does this port speak TLS?" : ""
        return RedisError(
            .connectFailed, effect: .none, "no answer from \(address) within \(limit)\(hint)", fault: .silent)
    }

    private func words(
        _ error: any Error, _ certificate: NIOSSLCertificate?
    ) -> (fault: ConnectionFault, text: String) {
        switch error {
        case let error as NIOConnectionError: return words(error)
        case let error as IOError: return words(errno: error.errnoCode)
        case ChannelError.connectTimeout(let limit):
            return (.silent, "no answer from \(address) within \(Duration.nanoseconds(limit.nanoseconds))")
        case let error as NIOSSLExtraError where error == .failedToValidateHostname:
            return (.wrongName, "the certificate of \(address) is for another name")
        case is NIOSSLError, is BoringSSLError, is NIOSSLExtraError: return words(tls: "\(error)", certificate)
        default: return (.broken, "\(address) closed the connection")
        }
    }

    /// A name may have several addresses; a refusal says most, for there is a machine.
    private func words(_ error: NIOConnectionError) -> (ConnectionFault, String) {
        let failures = error.connectionErrors.map { words($0.error, nil) }
        if let refused = failures.first(where: { $0.fault == .refused }) ?? failures.last { return refused }
        let why = (error.dnsAError ?? error.dnsAAAAError) as? SocketAddressError.UnknownHost
        let detail = why.map { " (\($0.errorDescription))" } ?? ""
        return (.nameNotFound, "the name \(error.host) is not found\(detail)")
    }

    private func words(errno number: Int32) -> (ConnectionFault, String) {
        switch (number, address) {
        case (ECONNREFUSED, _): return (.refused, "connection refused by \(address)")
        case (ENOENT, .unix): return (.noSocket, "there is no socket \(address)")
        case (EACCES, .unix), (EPERM, .unix): return (.forbidden, "this user may not use the socket \(address)")
        case (ETIMEDOUT, _): return (.silent, "no answer from \(address)")
        case (EHOSTUNREACH, _), (ENETUNREACH, _), (EADDRNOTAVAIL, _): return (.noRoute, "no route to \(address)")
        case (ECONNRESET, _), (EPIPE, _): return (.broken, "\(address) closed the connection")
        default:
            return (.broken, "cannot connect to \(address): \(strerror(number).map { String(cString: $0) } ?? "")")
        }
    }

    private func words(tls text: String, _ certificate: NIOSSLCertificate?) -> (ConnectionFault, String) {
        if text.contains("CERTIFICATE_VERIFY_FAILED") {
            let now = time(nil)
            if let certificate, certificate.notValidAfter < now {
                return (.expired, "the certificate of \(address) has expired")
            }
            if let certificate, certificate.notValidBefore > now {
                return (.notYetValid, "the certificate of \(address) is not valid yet: is this machine's clock right?")
            }
            return (
                .untrusted,
                "no authority that is trusted here has signed the certificate of \(address): name its file (redis-ca)"
            )
        }
        if text.contains("WRONG_VERSION_NUMBER") {
            return (.plaintext, "\(address) speaks no TLS: give its TLS port, or redis://")
        }
        if text.contains("CERTIFICATE_REQUIRED") {
            return (.clientCertificate, "\(address) asks for a client certificate: give redis-cert and redis-key")
        }
        if text.contains("ALERT_UNKNOWN_CA") || text.contains("ALERT_BAD_CERTIFICATE") {
            return (.clientCertificate, "\(address) does not take our client certificate (redis-cert)")
        }
        if text.contains("EOF") || text.contains("uncleanShutdown") {
            return (.broken, "\(address) closed the connection while TLS began: does this port speak TLS?")
        }
        return (.broken, "TLS with \(address) failed" + (Self.reason(in: text).map { ": " + $0 } ?? ""))
    }

    /// BoringSSL's name of a reason, such as `NO_SHARED_CIPHER`.
    private static func reason(in text: String) -> String? {
        guard let mark = text.firstRange(of: "OPENSSL_internal:") else { return nil }
        let name = text[mark.upperBound...].prefix { $0 == "_" || $0.isASCII && ($0.isUppercase || $0.isNumber) }
        return name.isEmpty ? nil : name.lowercased().split(separator: "_").joined(separator: " ")
    }
}

extension ConnectionWords {
    /// A plain connection ended before the server said anything, as one to a TLS server does.
    func endedInSilence() -> RedisError {
        RedisError(
            .connectFailed, effect: .none,
            "\(address) closed the connection before it said anything; if this port speaks TLS, give rediss://",
            fault: .broken)
    }

    func speaksTLS() -> RedisError {
        RedisError(
            .connectFailed, effect: .none, "\(address) speaks TLS: give rediss:// and not redis://", fault: .speaksTLS)
    }

    func wrongCertificate(_ identity: ServerIdentity) -> RedisError {
        RedisError(
            .connectFailed, effect: .none, "the certificate of \(address) is not for \(identity)", fault: .wrongName)
    }
}
