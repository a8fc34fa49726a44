//! The `corriente` program; [`corriente::cli`] has its commands.

fn main() -> std::process::ExitCode {
    corriente::cli::main(std::env::args_os())
}
