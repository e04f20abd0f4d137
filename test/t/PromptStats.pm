# What several of the tests need: clients that know exactly which of their
# calls were acknowledged, across crashes of the server.
#
#   my $load = PromptStats::Load->start($node, 8, sub { my ($client, $turn) = @_;
#       return ('SELECT increment_prompt_views(1)', { '1 views' => 1 }); });
#   ...
#   my $told = $load->stop;    # $told->{acked}{'1 views'}, $told->{in_flight}{...}
#
# Or $load->pause, which tells what was so since the last pause, and $load->resume.
#
#   PromptStats::wait_until($node, 'SELECT ...') or die;
#
# A client sends the SQL as one query, hence as one transaction.  Its counts are
# acknowledged once the server says that it is ready for the next query; they are
# in flight where the connection was lost before that, and nothing else is.

use strict;
use warnings FATAL => 'all';
use IO::Socket::UNIX;
use Socket ();

# A connection that speaks just enough of the protocol: psql doesn't tell a
# query that failed from one whose outcome is unknown.
package PromptStats::Connection;

# Undefined while the server is not there; "who" names another user or database
sub new
{
	my ($class, $node, $name, %who) = @_;
	my $socket = IO::Socket::UNIX->new(
		Type => Socket::SOCK_STREAM(),
		Peer => $node->host . '/.s.PGSQL.' . $node->port) or return;
	my $self = bless { socket => $socket, buffer => '' }, $class;
	my %options = (
		user => scalar getpwuid($>),
		database => 'postgres',
		application_name => $name,
		%who);
	my $startup = join '', map { "$_\0$options{$_}\0" } sort keys %options;

	$self->send_bytes(pack('NNa*x', length($startup) + 9, 196608, $startup));
	my $result = $self->read_result;
	return $self if $result->{outcome} eq 'ok';

	# Starting up, shutting down
	my $sqlstate = $result->{sqlstate} // '57P03';
	die "could not connect: $sqlstate $result->{message}" if $sqlstate !~ /^57P/;
	return;
}

sub send_bytes
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes)
	{
		my $sent = syswrite($self->{socket}, $bytes);
		next if !defined $sent && $!{EINTR};
		return unless $sent;
		substr($bytes, 0, $sent) = '';
	}
	return;
}

# Returns false at the end of the connection
sub fill_buffer
{
	my ($self, $wanted) = @_;
	while (length $self->{buffer} < $wanted)
	{
		my $got = sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer});
		next if !defined $got && $!{EINTR};
		return unless $got;
	}
	return 1;
}

sub read_message
{
	my ($self) = @_;
	$self->fill_buffer(5) or return;
	my ($type, $length) = unpack('aN', $self->{buffer});
	$self->fill_buffer(1 + $length) or return;
	my $message = substr($self->{buffer}, 0, 1 + $length, '');
	return ($type, substr($message, 5));
}

# {outcome} is ok, error, or lost; {rows} is of all its statements; {hints} is of its notices
sub read_result
{
	my ($self) = @_;
	my %result = (outcome => 'ok', rows => [], hints => []);

	while (my ($type, $body) = $self->read_message)
	{
		return \%result if $type eq 'Z';
		push @{ $result{rows} }, [ unpack('n/(N/a*)', $body) ] if $type eq 'D';
		if ($type eq 'N')
		{
			my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;

			push @{ $result{hints} }, $field{H} if defined $field{H};
		}
		if ($type eq 'E')
		{
			my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;

			# The server went away; before or after the commit, who knows
			@result{qw(outcome sqlstate message detail hint context)} =
			  ($field{V} eq 'ERROR' ? 'error' : 'lost', @field{qw(C M D H W)});
			return \%result if $result{outcome} eq 'lost';
		}
	}
	return { outcome => 'lost' };
}

# Does not wait for its result
sub send_query
{
	my ($self, $sql) = @_;
	$self->send_bytes(pack('aNZ*', 'Q', length($sql) + 5, $sql));
	return;
}

# Whether a result has begun to come, within so many seconds
sub has_answered
{
	my ($self, $seconds) = @_;
	return 1 if length $self->{buffer};
	vec(my $sockets = '', fileno $self->{socket}, 1) = 1;
	return select($sockets, undef, undef, $seconds) > 0;
}

sub query
{
	my ($self, $sql) = @_;
	$self->send_query($sql);
	return $self->read_result;
}

# Several clients, each a process of its own that connects again when it must
package PromptStats::Load;

use POSIX ();
use PostgreSQL::Test::Utils;
use Storable;
use Test::More;
use Time::HiRes qw(usleep);

sub start
{
	my ($class, $node, $clients, $work, $turns) = @_;
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir(), pids => [] }, $class;

	foreach my $client (1 .. $clients)
	{
		my $file = "$self->{dir}/$client";
		push @{ $self->{pids} }, in_child(sub {
			my ($go_on) = @_;
			Storable::store(run_client($node, $client, $work, $go_on, $turns, $self->{dir}), $file);
		});
	}
	return $self;
}

# Runs code in a process of its own; it gets a function that says when to stop
sub in_child
{
	my ($code) = @_;
	my $parent = $$;
	my $pid = fork // die "could not fork: $!";
	return $pid if $pid;

	# Not exit: that would end the servers of the test as well
	my $stop = 0;
	local $SIG{TERM} = sub { $stop = 1 };
	my $done = eval { $code->(sub { !$stop && getppid() == $parent }); 1 };
	print STDERR $@ unless $done;
	POSIX::_exit($done ? 0 : 1);
}

sub told_nothing { return (acked => {}, in_flight => {}, errors => {}, lost => 0, calls => 0) }

# Until the file is taken away, as it is after the other one
sub tell_paused
{
	my ($told, $file, $go_on) = @_;

	Storable::store($told, "$file.new");
	rename "$file.new", $file;
	usleep(10_000) while -e $file && $go_on->();
	return;
}

sub run_client
{
	my ($node, $client, $work, $go_on, $turns, $dir) = @_;
	my %told = told_nothing();
	my $connection;

	srand($client);
	for (my $turn = 0; $go_on->() && (!defined $turns || $turn < $turns); $turn++)
	{
		while (-e "$dir/pause" || !$connection)
		{
			return \%told unless $go_on->();
			if (-e "$dir/pause")
			{
				tell_paused(\%told, "$dir/$client.paused", $go_on);
				%told = told_nothing();
				next;
			}

			# A server that starts has better things to do than to say so
			$connection = PromptStats::Connection->new($node, "client $client") or usleep(50_000 + int(rand 50_000));
		}
		my ($sql, $counts) = $work->($client, $turn);
		my $result = $connection->query($sql);
		if ($result->{outcome} eq 'error')
		{
			$told{errors}{ join ' ', grep { defined } @$result{qw(sqlstate message detail)} }++;
			next;
		}
		my $lost = $result->{outcome} eq 'lost';
		my $tally = $told{ $lost ? 'in_flight' : 'acked' };
		$tally->{$_} += $counts->{$_} foreach keys %$counts;
		$lost ? $told{lost}++ : $told{calls}++;
		undef $connection if $lost;
	}
	return \%told;
}

# Ends the clients; returns what they were told, all together
sub stop
{
	my ($self) = @_;
	kill 'TERM', @{ $self->{pids} };
	return $self->finish;
}

# The same for clients that end by themselves, after so many turns
sub finish
{
	my ($self) = @_;

	foreach my $pid (@{ $self->{pids} })
	{
		waitpid($pid, 0);
		die "client $pid failed" if $? != 0;
	}
	return sum_up(map { "$self->{dir}/$_" } 1 .. @{ $self->{pids} });
}

# All clients keep their connections, and do nothing
sub pause
{
	my ($self) = @_;
	my @files = map { "$self->{dir}/$_.paused" } 1 .. @{ $self->{pids} };

	append_to_file("$self->{dir}/pause", '');
	foreach (1 .. 18000)
	{
		return sum_up(@files) unless grep { !-e $_ } @files;
		usleep(10_000);
	}
	die 'a client does not pause';
}

sub resume
{
	my ($self) = @_;
	unlink "$self->{dir}/pause", map { "$self->{dir}/$_.paused" } 1 .. @{ $self->{pids} };
	return;
}

# What was told to all clients
sub sum_up
{
	my %told = told_nothing();

	foreach my $own (map { Storable::retrieve($_) } @_)
	{
		foreach my $kind (qw(acked in_flight errors))
		{
			$told{$kind}{$_} += $own->{$kind}{$_} foreach keys %{ $own->{$kind} };
		}
		$told{$_} += $own->{$_} foreach qw(calls lost);
	}
	note "$told{calls} calls acknowledged, $told{lost} in flight";
	return \%told;
}

# Of what was counted ("key" => number): acked <= counted <= acked + in flight.
# Names those of which it isn't so.
sub differences
{
	my ($told, $counted) = @_;
	my %keys = map { $_ => 1 } map { keys %$_ } $told->{acked}, $told->{in_flight}, $counted;
	my @wrong;

	foreach my $key (sort keys %keys)
	{
		my $least = $told->{acked}{$key} // 0;
		my $most = $least + ($told->{in_flight}{$key} // 0);
		my $found = $counted->{$key} // 0;
		push @wrong, "$key: $found, not $least to $most" if $found < $least || $found > $most;
	}
	return join "\n", @wrong;
}

# Questions under load, when a psql takes seconds to start
package PromptStats;

use Time::HiRes qw(usleep);

# The first column of the first row; undefined where nobody answers
sub ask
{
	my ($node, $sql) = @_;
	my $connection = PromptStats::Connection->new($node, 'ask') or return;
	my $result = $connection->query($sql);
	die "$result->{sqlstate} $result->{message}: $sql" if $result->{outcome} eq 'error';
	return $result->{outcome} eq 'ok' && @{ $result->{rows} } ? $result->{rows}[0][0] : undef;
}

# Until the answer is true; the server may be away meanwhile
sub wait_until
{
	my ($node, $sql) = @_;
	foreach (1 .. 9000)
	{
		return 1 if (ask($node, $sql) // '') eq 't';
		usleep(20_000);
	}
	return;
}

1;
