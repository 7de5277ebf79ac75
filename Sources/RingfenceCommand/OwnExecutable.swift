// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// This very executable, for commands that start more of themselves.
enum OwnExecutable {
    /// On Linux the kernel's link, which stays right when the file was moved or replaced meanwhile.
    static var path: String {
        access("/proc/self/exe", X_OK) == 0 ? "/proc/self/exe" : CommandLine.arguments[0]
    }
}

/// Writes out what `print` has kept back, so that a reader at a pipe sees each line when it was made.
func flushOutput() { fflush(nil) }

/// Writes a line to standard error.
func complain(_ text: String) {
    let line = text + "\n"
    _ = line.withCString { write(STDERR_FILENO, $0, strlen($0)) }
}
