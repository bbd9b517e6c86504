//! What a Mach-O library says about itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::macho::{MachHeader64, N_EXT};
use object::read::macho::{LoadCommandVariant, MachHeader, Nlist};

use super::slice::Slice;
use crate::util::root;

pub struct MachO {
    pub install_name: String,
    pub platform: u32,
    pub minimum_os: (u16, u8),
    pub dependencies: Vec<String>,
    /// Without the underscore that C's names get.
    pub exports: BTreeSet<String>,
    pub imports: BTreeSet<String>,
}

pub fn read(file: &Path) -> Result<MachO> {
    let data = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    parse(&data).with_context(|| format!("{} is no Mach-O library", file.display()))
}

fn parse(data: &[u8]) -> Result<MachO> {
    let header = MachHeader64::<Endianness>::parse(data, 0)?;
    let endian = header.endian()?;
    let mut found = MachO {
        install_name: String::new(),
        platform: 0,
        minimum_os: (0, 0),
        dependencies: Vec::new(),
        exports: BTreeSet::new(),
        imports: BTreeSet::new(),
    };
    let mut commands = header.load_commands(endian, data, 0)?;
    while let Some(command) = commands.next()? {
        match command.variant()? {
            LoadCommandVariant::IdDylib(id) => {
                found.install_name = text(command.string(endian, id.dylib.name)?);
            }
            LoadCommandVariant::Dylib(dylib) => {
                let name = text(command.string(endian, dylib.dylib.name)?);
                found.dependencies.push(name);
            }
            LoadCommandVariant::BuildVersion(version) => {
                let minimum = version.minos.get(endian);
                found.platform = version.platform.get(endian);
                found.minimum_os = ((minimum >> 16) as u16, (minimum >> 8) as u8);
            }
            LoadCommandVariant::Symtab(table) => {
                let symbols = table.symbols::<MachHeader64<Endianness>, _>(endian, data)?;
                for symbol in symbols.iter() {
                    if symbol.is_stab() || symbol.n_type() & N_EXT == 0 {
                        continue;
                    }
                    let names = match symbol.is_undefined() {
                        true => &mut found.imports,
                        false => &mut found.exports,
                    };
                    names.insert(c_name(symbol.name(endian, symbols.strings())?));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn c_name(symbol: &[u8]) -> String {
    text(symbol.strip_prefix(b"_").unwrap_or(symbol))
}

/// Whether a framework's binary is what its bundle and the header say.
pub fn check(slice: &Slice, binary: &Path) -> Result<()> {
    let found = read(binary)?;
    ensure!(
        found.install_name == slice.install_name(),
        "the library calls itself {}, not {}",
        found.install_name,
        slice.install_name()
    );
    ensure!(
        found.platform == slice.macho_platform,
        "the library is for Mach-O platform {}, not {}",
        found.platform,
        slice.macho_platform
    );
    ensure!(
        found.minimum_os == slice.minimum_os,
        "the library needs {:?}, its bundle says {}",
        found.minimum_os,
        slice.minimum_os_text()
    );
    let declared = declared_functions(&fs::read_to_string(root().join("include/umrt.h"))?);
    let missing: Vec<_> = declared.difference(&found.exports).collect();
    let foreign: Vec<_> = found.exports.difference(&declared).collect();
    ensure!(
        missing.is_empty(),
        "the library does not export {missing:?}"
    );
    ensure!(foreign.is_empty(), "umrt.h does not declare {foreign:?}");
    println!(
        "{}: {}, from {} on, exports the {} functions of umrt.h",
        slice.name,
        found.install_name,
        slice.minimum_os_text(),
        declared.len()
    );
    Ok(())
}

/// The functions that a header declares: `umrt_...(` at the end of a type, outside
/// of comments and of types of functions.
fn declared_functions(header: &str) -> BTreeSet<String> {
    header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#', '}']) && !line.starts_with("typedef"))
        .filter(|line| !line.starts_with("inline"))
        .filter_map(|line| {
            let (before, _) = line.split_once('(')?;
            let name = before.rsplit([' ', '*']).next()?;
            name.starts_with("umrt_").then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_a_header() {
        let header = "/**\n * Calls `umrt_c(x)`.\n */\n\
                      umrt_status umrt_a(const char *path,\n                   int32_t n);\n\
                      const char *umrt_b(void);\n\
                      typedef void (*umrt_log_fn)(int32_t level);\n\
                      inline T umrt_initialized() {\n\
                      #define UMRT_INIT(type) umrt_initialized<type>()\n";
        let names: Vec<_> = declared_functions(header).into_iter().collect();
        assert_eq!(names, ["umrt_a", "umrt_b"]);
    }
}
