use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Files by path.
#[derive(Default)]
struct Fake(HashMap<&'static str, &'static str>);

impl Files for Fake {
    fn text(&self, path: &str) -> Option<String> {
        self.0.get(path).map(|text| (*text).to_owned())
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let below = |path: &'static str| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
        self.0.keys().copied().filter_map(below).collect()
    }

    fn has(&self, path: &str, test: &str) -> bool {
        self.0.get(path).is_some_and(|text| test != "-d" && (test != "-s" || !text.is_empty()))
    }
}

fn run(files: &Fake, text: &str) -> Vec<GrubEntry> {
    entries(files, "/boot/grub/grub.cfg", text).unwrap()
}

fn titles(files: &Fake, text: &str) -> Vec<String> {
    run(files, text).into_iter().map(|entry| entry.title).collect()
}

/// In the shape that `update-grub` gives it.
const DEBIAN: &str = r#"
# made by a tool, do not edit
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT_HERE"
fi

if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option

function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
    insmod vbe
  fi
}
if [ x$feature_default_font_path = xy ] ; then
   font=unicode
else
insmod part_gpt
    font="/usr/share/grub/unicode.pf2"
fi
if loadfont $font ; then
  set gfxmode=auto
  load_video
  insmod gfxterm
fi
terminal_output gfxterm
if [ "${recordfail}" = 1 ] ; then
  set timeout=30
else
  if [ x$feature_timeout_style = xy ] ; then
    set timeout_style=menu
    set timeout=5
  # an else branch for old ones
  else
    set timeout=5
  fi
fi
set linux_gfx_mode=keep
if [ "${linux_gfx_mode}" != "text" ]; then vt_handoff=vt.handoff=7 ; fi

menuentry 'Debian GNU/Linux' --class debian --class gnu-linux $menuentry_id_option 'gnulinux-simple-11aa' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod ext2
	search --no-floppy --fs-uuid --set=root 11aa-22bb
	echo	'Loading Linux 6.1.0-18 ...'
	linux	/boot/vmlinuz-6.1.0-18 root=UUID=11aa-22bb ro console=ttyS0,115200 quiet $vt_handoff
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-18
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-11aa' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-18' --class debian $menuentry_id_option 'gnulinux-6.1.0-18-advanced' {
		linux	/boot/vmlinuz-6.1.0-18 root=UUID=11aa-22bb ro
		initrd	/boot/initrd.img-6.1.0-18
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-9 (recovery mode)' $menuentry_id_option 'gnulinux-6.1.0-9-recovery' {
		linux	/boot/vmlinuz-6.1.0-9 root=UUID=11aa-22bb ro single "dyndbg=file x +p"
		initrd	/boot/early.img /boot/initrd.img-6.1.0-9
	}
}
if fwsetup --is-supported; then
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
	fwsetup
}
fi
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"#;

#[test]
fn a_debian_menu_gives_its_entries_with_the_first_as_default() {
    let found = run(&Fake::default(), &DEBIAN.replace("DEFAULT_HERE", "0"));
    assert_eq!(
        found[0],
        GrubEntry {
            title: "Debian GNU/Linux".into(),
            root: "uuid:11aa-22bb".into(),
            kernel: "/boot/vmlinuz-6.1.0-18".into(),
            initrds: vec!["/boot/initrd.img-6.1.0-18".into()],
            command_line: "root=UUID=11aa-22bb ro console=ttyS0,115200 quiet vt.handoff=7".into(),
        }
    );
    assert_eq!(found.len(), 3);
    assert_eq!(found[2].initrds, ["/boot/early.img", "/boot/initrd.img-6.1.0-9"]);
    assert_eq!(found[2].command_line, "root=UUID=11aa-22bb ro single dyndbg=file x +p");
}

#[test]
fn the_default_may_be_an_index_a_title_an_id_or_a_path_of_them() {
    for (default, expected) in [
        ("0", "Debian GNU/Linux"),
        ("1", "Debian GNU/Linux, with Linux 6.1.0-18"),
        ("1>1", "Debian GNU/Linux, with Linux 6.1.0-9 (recovery mode)"),
        (
            "gnulinux-advanced-11aa>gnulinux-6.1.0-9-recovery",
            "Debian GNU/Linux, with Linux 6.1.0-9 (recovery mode)",
        ),
        ("Advanced options for Debian GNU/Linux>0", "Debian GNU/Linux, with Linux 6.1.0-18"),
        ("gnulinux-simple-11aa", "Debian GNU/Linux"),
        ("7", "Debian GNU/Linux"),
        ("nothing of this name", "Debian GNU/Linux"),
    ] {
        let text = DEBIAN.replace("DEFAULT_HERE", default);
        assert_eq!(titles(&Fake::default(), &text)[0], expected, "{default}");
    }
}

#[test]
fn the_environment_block_chooses_but_not_for_once() {
    let block = "# GRUB Environment Block\nsaved_entry=gnulinux-advanced-11aa>1\nnext_entry=0\n#######";
    let files = Fake(HashMap::from([("/boot/grub/grubenv", block)]));
    let text = DEBIAN.replace("DEFAULT_HERE", "${saved_entry}");
    assert_eq!(titles(&files, &text)[0], "Debian GNU/Linux, with Linux 6.1.0-9 (recovery mode)");
}

#[test]
fn included_files_functions_loops_and_tests_run() {
    let files = Fake(HashMap::from([(
        "/boot/grub/custom.cfg",
        "menuentry custom { linux /k custom=$1 }\nset default=custom",
    )]));
    let text = r#"
        function entry { menuentry "entry $1" --id=$1 { linux /k-$name a=$name; initrd /i } }
        for name in a 'b c'; do entry "$name"; done
        set count=0
        while [ "$count" != xxx ]; do set count="x$count"; if [ $count = x0 ]; then count=x; fi; done
        if ! [ $count -eq 0 -a -n "$count" ] ; then set wrong=1 ; fi
        until true; do set wrong=2; done
        if false; then set wrong=3; elif [ ! -e /none -a -s $prefix/custom.cfg ]; then set right=yes; fi
        if [ "$wrong" != "" -o $right != yes ]; then default=9; fi
        source $prefix/custom.cfg
    "#;
    let found = run(&files, text);
    assert_eq!(
        found.iter().map(|entry| entry.title.as_str()).collect::<Vec<_>>(),
        ["custom", "entry a", "entry b c"]
    );
    // A body runs when it is chosen, and sees the variables of then.
    assert_eq!(found[1].kernel, "/k-b");
    assert_eq!(found[1].command_line, "c a=b c");
}

#[test]
fn boot_loader_entries_stand_where_the_script_calls_for_them() {
    let files = Fake(HashMap::from([
        (
            "/loader/entries/f-6.2.conf",
            "title F 6.2\nversion 6.2\nlinux /vmlinuz-6.2\ninitrd /i-6.2 $tuned_initrd\noptions $kernelopts quiet\n",
        ),
        (
            "/loader/entries/f-6.10.conf",
            "title F 6.10\nversion 6.10\nlinux /vmlinuz-6.10\ninitrd /i-6.10\noptions root=X\n",
        ),
        ("/loader/entries/rubbish.conf", "title only"),
        ("/boot/grub/grubenv", "kernelopts=root=UUID=1 ro\nsaved_entry=f-6.2\n"),
    ]));
    let found = run(&files, "load_env\nset default=\"${saved_entry}\"\nblscfg\n");
    assert_eq!(found.iter().map(|entry| entry.title.as_str()).collect::<Vec<_>>(), ["F 6.2", "F 6.10"]);
    assert_eq!(found[0].command_line, "root=UUID=1 ro quiet");
    assert_eq!(found[0].initrds, ["/i-6.2"]);
    let newest_first = run(&files, "blscfg");
    assert_eq!(newest_first[0].title, "F 6.10");
}

#[test]
fn a_script_that_never_ends_is_ended() {
    let files =
        Fake(HashMap::from([("/boot/grub/grub.cfg", "source $prefix/grub.cfg\nsource $prefix/grub.cfg")]));
    for text in [
        "while true; do set a=x$a; done",
        "until false; do true; done",
        "while true; do\ndone",
        "function f { f; f; }\nf",
        "source $prefix/grub.cfg",
        "a=xx\nwhile true; do a=\"$a$a\"; done",
        "for a in 1 2 3 4 5 6 7 8; do for b in 1 2 3 4 5 6 7 8; do while true; do menuentry x { true }; done; done; done",
    ] {
        assert!(run(&files, text).is_empty(), "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, expected) in [
        ("\nmenuentry 'x {\n", "line 2: a quote is not closed"),
        ("set a=1\nif true; then\nset b=1\n", "fi was expected"),
        ("menuentry x\nlinux /k", "{ was expected"),
        ("}", "line 1: a command was expected"),
        (&"if ".repeat(100), "line 1: blocks are nested too deeply"),
    ] {
        let error = entries(&Fake::default(), "/grub.cfg", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_or_hangs(text in "\\PC*") {
        let _ = entries(&Fake::default(), "/grub.cfg", &text);
    }

    #[test]
    fn no_damage_to_a_real_menu_panics_or_hangs(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..20, "[ -~\n]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = DEBIAN.chars().collect();
        for (place, len, replacement) in cuts {
            let start = place.index(text.len());
            let end = (start + len).min(text.len());
            text.splice(start..end, replacement.chars());
        }
        let _ = entries(&Fake::default(), "/grub.cfg", &text.into_iter().collect::<String>());
    }
}
