// SPDX-License-Identifier: Apache-2.0
//
// What a server's refusal means, for the person who reads it.
//
// Redis names its states for those who know them (NOREPLICAS, TRYAGAIN), and adds where in a script it met them, by a
// digest that nobody knows. Here the states that end by themselves have a sentence that says what is the matter and
// what to do, and of all others the script's part is cut off.

extension RedisServerError {
    /// What is the matter and what to do, for a state that ends by itself; for all else Redis' own words.
    package var words: String { plight ?? plain }

    /// A few words on the state, as the title of a problem; nil for a refusal of another kind.
    package var title: String? {
        switch prefix {
        case .readOnly: "This Redis is a replica"
        case .moved: "The slot is at another node of the Cluster"
        case .ask, .tryAgain: "The slot is being moved to another node"
        case .clusterDown: "The Redis Cluster is down"
        case .loading: "Redis is loading its data"
        case .masterDown: "This Redis is a replica without its primary"
        case .noReplicas: "Redis has too few replicas"
        case .busy: "Redis is busy with a script"
        default: nil
        }
    }

    private var plight: String? {
        switch prefix {
        case .readOnly:
            "this Redis is a replica and takes no writes: it was demoted, or the address leads to a replica; give its "
                + "primary, or the Sentinels (redis+sentinel://)"
        case .moved:
            "\(slot) is at another node of the Cluster\(node): give the URL as redis+cluster://, which follows it"
        case .ask, .tryAgain:
            "\(slot) is being moved to another node of the Cluster\(node): calls go on when it is there; if that never "
                + "ends, see redis-cli --cluster fix"
        case .clusterDown:
            "the Redis Cluster is down: too few of its primaries reach each other, or nobody serves the slot; see "
                + "redis-cli --cluster check"
        case .loading: "Redis is loading its data and takes no commands until that is done"
        case .masterDown:
            "this Redis is a replica that has lost its primary and answers nothing meanwhile: see to its primary"
        case .noReplicas:
            "Redis takes no writes, because fewer replicas are connected and in time than its min-replicas-to-write "
                + "asks for: see to the replicas"
        case .busy:
            "Redis is busy with a script that has run for too long: it goes on when that ends, or end it with SCRIPT "
                + "KILL"
        default: nil
        }
    }

    /// `MOVED 5718 host:port`.
    private var slot: String {
        guard prefix == .moved || prefix == .ask, let slot = parts.dropFirst().first, Int(slot) != nil else {
            return "the slot"
        }
        return "slot \(slot)"
    }

    /// Without a host it is the one that answered.
    private var node: String {
        guard prefix == .moved || prefix == .ask, parts.count >= 3, !parts[2].hasPrefix(":") else { return "" }
        return ", \(parts[2])"
    }

    private var parts: [Substring] { plain.split(separator: " ") }

    /// The reply without what it says of a script.
    package var plain: String {
        var text = message[...]
        // From Redis 7 on: `… script: <digest>, on @user_script:93.`
        if let mark = text.range(ofLast: " script: "), text[mark.upperBound...].contains("@user_script:") {
            text = text[..<mark.lowerBound]
        }
        // Before: `ERR Error running script (call to f_<digest>): @user_script:93: @user_script: 93: -READONLY …`
        if text.hasPrefix("ERR Error running script"), let mark = text.range(ofLast: "@user_script") {
            let rest = text[mark.upperBound...].drop { $0 == ":" || $0 == " " || $0.isNumber }
            if !rest.isEmpty { text = rest.first == "-" ? rest.dropFirst() : rest }
        }
        return String(text)
    }
}

extension Substring {
    fileprivate func range(ofLast part: String) -> Range<Index>? { ranges(of: part).last }
}

extension RedisError {
    /// What kind of server or state is in the way, as the title of a problem; nil for another failure.
    package var title: String? {
        code == .wrongServer ? "The URL leads to the wrong kind of server" : server?.title
    }
}
