// SPDX-License-Identifier: Apache-2.0
//
// Whether a file may tell the agent what to run.
//
// An agent often runs as root or as the database's own account, so a user who can write its configuration or one of its
// hooks owns that account. Looking at the file alone is not enough: a user who may write a directory on the way can put
// another file in its place, and a symbolic link moves the question elsewhere. So the path is walked one component at a
// time, links resolved by hand, and every directory, link and the file itself must belong to root or to the agent's
// user and be writable by nobody else. A directory with the sticky bit (/tmp) may be writable by all: there nobody can
// replace another user's file.
import RingfencePlatform

enum TrustedFile {
    private static let linksMaximum = 40

    /// Checks an absolute path.
    /// - Returns: why it is not to be trusted; nil: it is.
    static func objection(to path: String, isProgram: Bool) -> String? {
        guard path.hasPrefix("/") else { return "it is no absolute path" }
        var rest = path.split(separator: "/").map(String.init)
        var walked = ""
        var links = 0
        if let objection = objection(toDirectory: "/") { return objection }
        while !rest.isEmpty {
            let name = rest.removeFirst()
            if name == "." { continue }
            if name == ".." {
                walked = String(walked.prefix(upTo: walked.lastIndex(of: "/") ?? walked.startIndex))
                continue
            }
            let next = walked + "/" + name
            var status = stat()
            guard lstat(next, &status) == 0 else { return "\(next): \(String(cString: strerror(errno)))" }
            if status.st_uid != 0, status.st_uid != geteuid() { return "\(next) belongs to user \(status.st_uid)" }
            switch status.st_mode & S_IFMT {
            case S_IFLNK:
                links += 1
                guard links <= linksMaximum, let target = target(of: next) else { return "\(next): too many links" }
                if target.hasPrefix("/") { walked = "" }
                rest = target.split(separator: "/").map(String.init) + rest
            case S_IFDIR:
                guard !rest.isEmpty else { return "\(next) is a directory" }
                if let objection = objection(toDirectory: next) { return objection }
                walked = next
            case S_IFREG:
                guard rest.isEmpty else { return "\(next) is no directory" }
                if status.st_mode & 0o022 != 0 { return "others can write \(next): chmod go-w it" }
                if isProgram, access(next, X_OK) != 0 { return "\(next) cannot be executed: chmod +x it" }
                return nil
            default: return "\(next) is no regular file"
            }
        }
        return "it is a directory"
    }

    private static func objection(toDirectory path: String) -> String? {
        var status = stat()
        guard stat(path, &status) == 0 else { return "\(path): \(String(cString: strerror(errno)))" }
        if status.st_uid != 0, status.st_uid != geteuid() { return "\(path) belongs to user \(status.st_uid)" }
        guard status.st_mode & 0o022 == 0 || status.st_mode & S_ISVTX != 0 else {
            return "others can write the directory \(path): chmod go-w it"
        }
        return nil
    }

    private static func target(of link: String) -> String? {
        var bytes = [CChar](repeating: 0, count: 4_096)
        let count = readlink(link, &bytes, bytes.count - 1)
        guard count > 0 else { return nil }
        return String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
