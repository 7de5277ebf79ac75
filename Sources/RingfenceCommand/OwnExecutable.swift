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
