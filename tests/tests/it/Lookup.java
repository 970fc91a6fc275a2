import java.net.InetAddress;
import java.util.Collections;
import java.util.Hashtable;
import java.util.TreeSet;
import javax.naming.Context;
import javax.naming.directory.InitialDirContext;

/** Prints what Java finds: addresses of a host, or records by its own resolver. */
public class Lookup {
    public static void main(String[] asked) throws Exception {
        var found = new TreeSet<String>();
        if (asked[0].equals("host")) {
            for (InetAddress address : InetAddress.getAllByName(asked[1])) {
                found.add(address.getHostAddress());
            }
        } else {
            var environment = new Hashtable<String, String>();
            environment.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.dns.DnsContextFactory");
            environment.put(Context.PROVIDER_URL, "dns:");
            var records = new InitialDirContext(environment).getAttributes(asked[1], new String[] {asked[2]});
            for (Object record : Collections.list(records.get(asked[2]).getAll())) {
                found.add(record.toString());
            }
        }
        found.forEach(System.out::println);
    }
}
