# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_fieldgate_global_optspecs
    string join \n log= h/help V/version
end

function __fish_fieldgate_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_fieldgate_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_fieldgate_using_subcommand
    set -l cmd (__fish_fieldgate_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c fieldgate -n "__fish_fieldgate_needs_command" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_needs_command" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -s V -l version -d 'Print version'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "run" -d 'Run the gateway until SIGTERM; SIGHUP reloads its files'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "check" -d 'Name every mistake of every file, print the plan, and run the mappings\' own tests'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "demo" -d 'Show the gateway at work on simulated devices: no file, no hardware, no set-up'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "simulate" -d 'Stand in for the devices of a configuration'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "replay" -d 'Take a candump log through the mapping: print what would be published, one JSON a line'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "probe" -d 'Look for the units on a Modbus bus, or show a range of registers in every type and byte order'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "watch" -d 'Show the topics of any broker live: a table on a terminal, `TIME TOPIC PAYLOAD` lines in a pipe'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "passwd" -d 'Read a password (prompt or stdin) and print its argon2id hash'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "schema" -d 'Print the JSON Schema of a file, for editors'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand run" -s c -l config -d 'The gateway file' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand run" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand run" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -s c -l config -d 'The gateway file' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -l json -d 'Print one JSON object instead of text'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -l seconds -d 'Stop by itself after so many seconds' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -s c -l config -d 'The gateway file' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -l fault -d 'Spoil answers: DEVICE:KIND[:PERCENT], as meter-1:silent or \'*:late:5\'. DEVICE is a device\'s or a bus\'s name, or *; KIND one of late, short, long, foreign, function, corrupt, doubled, silent, babble, busy, exception-N. May be given several times' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -l seed -d 'The same seed spoils the same answers' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -l tls-cert -d 'The simulated servers\' certificate (PEM), for buses with tls' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -l tls-key -d 'Its private key' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand simulate" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand replay" -s c -l config -d 'The gateway file' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand replay" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand replay" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l unit -d 'Ask this unit only; a range is read from unit 1 without it' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l timeout-ms -d 'How long to wait for an answer [default: 150 on a line, 300 on TCP, 1000 for a range]' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l holding -d 'Show these holding registers, both ends included, zero-based' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l input -d 'Show these input registers' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l coil -d 'Show these coils' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l discrete -d 'Show these discrete inputs' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand probe" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand watch" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand watch" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand passwd" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand passwd" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand schema" -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand schema" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "run" -d 'Run the gateway until SIGTERM; SIGHUP reloads its files'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "check" -d 'Name every mistake of every file, print the plan, and run the mappings\' own tests'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "demo" -d 'Show the gateway at work on simulated devices: no file, no hardware, no set-up'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "simulate" -d 'Stand in for the devices of a configuration'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "replay" -d 'Take a candump log through the mapping: print what would be published, one JSON a line'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "probe" -d 'Look for the units on a Modbus bus, or show a range of registers in every type and byte order'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "watch" -d 'Show the topics of any broker live: a table on a terminal, `TIME TOPIC PAYLOAD` lines in a pipe'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "passwd" -d 'Read a password (prompt or stdin) and print its argon2id hash'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "schema" -d 'Print the JSON Schema of a file, for editors'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check demo simulate replay probe watch passwd schema help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
